"""Locks end with their holder, and are waited for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.storage.files import hold, is_held

HOLDER = """\
import sys
from pathlib import Path
from fedrec.storage.files import hold
hold(Path(sys.argv[1]), shared=sys.argv[2] == "shared")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["shared", "alone"])
def test_a_lock_ends_with_the_process_that_holds_it(how: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert is_held(tmp_path)
    assert is_held(tmp_path, 0.1)
    process.kill()
    process.communicate()
    assert not is_held(tmp_path, 10.0)


def test_some_share_and_one_excludes(tmp_path: Path) -> None:
    one, other = hold(tmp_path, shared=True), hold(tmp_path, shared=True)
    assert one is not None
    assert other is not None
    os.close(one)
    with pytest.raises(BlockingIOError):
        hold(tmp_path)
    os.close(other)
    alone = hold(tmp_path)
    assert alone is not None
    with pytest.raises(BlockingIOError):
        hold(tmp_path, shared=True)
    os.close(alone)
    assert not is_held(tmp_path)


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "nothing")
