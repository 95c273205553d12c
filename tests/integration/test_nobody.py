"""A user without a home folder and without an entry in the list of users, as in a container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")
NOBODY = """\
import pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
from fedrec.cli.commands import main
main()
"""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("here")]


def fedrec(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, *arguments],
        env={
            **environment,
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "300",
            "FEDREC_CACHE": "",
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_without_a_home_folder_the_way_out_is_named() -> None:
    doctor = fedrec("doctor")
    assert doctor.returncode == 2
    assert "there is no home folder" in doctor.stdout and "set FEDREC_CACHE" in doctor.stdout
    done = fedrec("run", "small.yaml", "--quiet")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no home folder; set FEDREC_CACHE" in done.stderr


def test_folders_of_libraries_that_cannot_be_written_are_not_needed(tmp_path: Path) -> None:
    below = str(tmp_path / "small.yaml" / "below")  # of a file
    settings = {"MPLCONFIGDIR": below, "NUMBA_CACHE_DIR": below}
    settings["FEDREC_CACHE"] = os.environ["FEDREC_CACHE"]  # the kernel of the session
    more = ("--set", "train.backend=numba", "--out", "A", "--quiet")
    done = fedrec("run", "small.yaml", *more, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    done = fedrec("report", "A", "--out", "page.html", **settings)
    assert (done.returncode, done.stderr) == (0, "wrote page.html\n")
