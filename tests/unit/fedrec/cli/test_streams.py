"""No output stream breaks a command: each case is a process with streams of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = """\
import sys
from fedrec.cli.output import open_streams
open_streams()
sys.stderr.write("progress\\n")
for _ in range({times}):
    sys.stdout.write("\\u00b1 \\u2026 \\u6f22 {text}\\n")
sys.stdout.flush()
open("file.txt", "w").write("mine")
error = getattr(sys.stdout, "error", None)
sys.exit(error.errno if error else 0)
"""


def shell(command: str, folder: Path, times: int = 1, **environment: str) -> tuple[int, bytes]:
    """Run the script in a shell; its exit code and what came out."""
    (folder / "script.py").write_text(SCRIPT.format(times=times, text="x" * 100), encoding="utf-8")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} script.py {command}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        timeout=120,
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert (folder / "file.txt").read_text() == "mine", "no stream writes into a file of the run"
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16", "ascii:strict"]
)
def test_any_encoding_writes_what_it_can(tmp_path: Path, encoding: str) -> None:
    code, out = shell("", tmp_path, PYTHONIOENCODING=encoding)
    text = out.decode(encoding.partition(":")[0])
    assert code == 0
    assert text.startswith("\\xb1 \\u2026 \\u6f22" if "ascii" in encoding else "±")


@pytest.mark.parametrize(
    "streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2> /dev/full", "| head -n 1", "2>&1 | true"]
)
def test_closed_and_left_streams_are_no_error(tmp_path: Path, streams: str) -> None:
    assert shell(streams, tmp_path, times=5000)[0] == 0


def test_a_full_disk_under_the_output_is_an_error(tmp_path: Path) -> None:
    assert shell("> /dev/full", tmp_path)[0] != 0
