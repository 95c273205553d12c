import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("clients", "fedrec", "server", "strategies")


@pytest.fixture(scope="session")
def shipped_files() -> list[Path]:
    """The Python files of the packages that the wheel ships."""
    files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    assert len(files) > 40
    return files


@pytest.fixture(scope="session")
def tracked_files() -> list[Path]:
    """All files that git does not ignore; without git, those of the folders it would list."""
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z", "--cached"]
    try:
        listed = subprocess.run(
            [*command, "--others", "--exclude-standard"], capture_output=True, check=True, text=True
        ).stdout.split("\0")
        files = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        files = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
        for folder in (*PACKAGES, "experiments", "tests"):
            files += (p for p in (ROOT / folder).rglob("*") if "__pycache__" not in p.parts)
    return sorted(path for path in files if path.is_file())
