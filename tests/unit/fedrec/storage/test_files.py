import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load

from fedrec.data import Synthetic
from fedrec.data.clients import Clients
from fedrec.data.prepare import prepare
from fedrec.errors import FedRecError
from fedrec.storage.files import cache_folder, checksum_of, write_arrays, write_bytes


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A disk of 64 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    return disk


def test_a_full_disk_is_named_and_nothing_is_left_of_the_file(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        write_bytes(full / "file", b"old")
        with pytest.raises(FedRecError, match=r"disk full: .*file cannot be written"):
            write_bytes(full / "file", b"x" * 10**6)
        assert (full / "file").read_bytes() == b"old"
        monkeypatch.setenv("FEDREC_CACHE", str(full))
        with pytest.raises(FedRecError, match=r"disk full: .*set FEDREC_CACHE"):
            prepare(Synthetic(users=3000), Clients())
        assert sorted(each.name for each in full.rglob("*")) == ["file", "prepared"]
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_other_failures_are_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "absent" / "file", b"")


def test_the_home_folder_is_found_in_the_place_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEDREC_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "cache"


def test_a_checksum_is_of_the_values_and_not_of_their_order_in_memory() -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    other = np.asfortranarray(values)
    assert not other.flags.c_contiguous
    assert checksum_of({"a": other}, {}) == checksum_of({"a": values}, {})
    assert checksum_of({"a": values.T}, {}) != checksum_of({"a": values}, {})


def test_arrays_are_a_file_of_safetensors(tmp_path: Path) -> None:
    arrays = {
        "table": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "flags": np.array([True, False, True]),
        "wide": np.array([[2**40, -1]]),
        "number": np.array(2.5),
        "nothing": np.zeros((0, 3), np.float16),
        "small": np.arange(5, dtype=np.uint8),
    }
    write_arrays(tmp_path / "a", arrays, {"round": "3"})
    loaded = load((tmp_path / "a").read_bytes())
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert np.array_equal(loaded[name], array)
    with safe_open(tmp_path / "a", "numpy") as file:
        assert file.metadata()["round"] == "3"
