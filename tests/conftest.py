import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedrec.data import Synthetic, fetch
from fedrec.errors import DataError

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


@pytest.fixture(scope="session", autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One torch thread, Ctrl-C as in a terminal, and one cache folder, also for child processes.

    The folder is the one that FEDREC_CACHE names, if any, so that several sessions compile the
    numba kernel once.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # Pytest removes its folders in time.
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        if not os.environ.get("FEDREC_CACHE"):
            patch.setenv("FEDREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets that FEDREC_DATA names."""
    given = os.environ.get("FEDREC_DATA")
    if not given or not Path(given).is_dir():
        pytest.skip("needs real data: set FEDREC_DATA to a folder of data sets")
    return Path(given).resolve()


@pytest.fixture(scope="session")
def ml100k(machine: None) -> Path:
    """The folder of MovieLens-100K, fetched if need be; in CI never skipped."""
    said: list[str] = []
    try:
        return fetch.get("ml-100k", say=said.append)
    except DataError as error:
        if IN_CI:
            pytest.fail(f"MovieLens-100K is needed in CI: {error}")
        pytest.skip(f"MovieLens-100K cannot be fetched: {error}")


@pytest.fixture(scope="session")
def small() -> Synthetic:
    """60 users in 3 taste groups, 80 items: trains in a moment, and a model can learn it."""
    return Synthetic(users=60, items=80, taste_groups=3, rank=3, interactions_per_user=15.0)


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a user, who works there; modules that lie in it are forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
