"""Features are encoded once, follow all that they are made of, and reach every process alike."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fedrec.config.experiment import Experiment
from fedrec.data import Synthetic
from fedrec.data.catalogue import Catalogue
from fedrec.data.clients import Clients
from fedrec.data.prepare import open_split, prepare
from fedrec.errors import ConfigError, DataError, RunFolderError
from fedrec.features import Encoded, Encoder
from fedrec.features.base import Report
from fedrec.features.prepare import open_catalogue, prepare_features
from fedrec.storage.files import cache_folder, read_arrays
from fedrec.types import FloatArray

DATA = Synthetic(users=20, items=30)


class Counted(Encoder):
    """Gives each item numbers that depend on its raw id, and counts how often."""

    calls: ClassVar[int] = 0
    factor: float = 1.0
    fault: str = ""

    def content(self, items: Catalogue) -> str:
        return "".join(items.item_ids)

    def encode(self, items: Catalogue, report: Report) -> Encoded:
        type(self).calls += 1
        numbers = items.item_ids.astype(np.float32)
        values = np.stack([numbers, numbers**2, np.ones_like(numbers)], 1) * self.factor
        present = numbers % 4 != 0
        values[~present] = 0
        report(len(values), len(values))
        faulty: dict[str, Encoded] = {
            "shape": Encoded(values[:, 0], present),
            "length": Encoded(values[1:], present),
            "mask": Encoded(values, present.astype(np.float32)),
            "number": Encoded(np.where(values == 49, np.nan, values), present),
            "nothing": Encoded(values, np.zeros_like(present)),
        }
        return faulty.get(self.fault, Encoded(values.astype(np.float32), present, ("a note",)))


@pytest.fixture(autouse=True)
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    return prepare(DATA, Clients())


def made(split: Path, **encoders: Encoder) -> tuple[Path, int]:
    """The file of features, and how often an encoder was called for it."""
    before = Counted.calls
    path = prepare_features(encoders, split)
    assert path is not None
    return path, Counted.calls - before


def bits(values: FloatArray) -> Any:
    return values.dtype.str, values.shape, values.tobytes()


def test_no_features_are_the_items_alone(split: Path) -> None:
    assert prepare_features({}, split) is None
    opened = open_split(split)
    assert open_catalogue(opened, None) == Catalogue.of(opened)


def test_what_is_mapped_is_what_was_made(split: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path, _ = made(split, one=Counted(normalize="none"), two=Counted(factor=2, pca=2))
    catalogue, opened = open_catalogue(open_split(split), path), open_split(split)
    numbers = opened.item_ids.astype(np.float32)
    assert np.array_equal(catalogue.feature("one")[:, 0], np.where(numbers % 4, numbers, 0))
    assert np.array_equal(catalogue.present["two"], numbers % 4 != 0)
    assert (catalogue.width("one"), catalogue.width("two")) == (3, 2)
    again = Catalogue.of(opened, catalogue.features, catalogue.present)
    assert again == catalogue
    with pytest.raises(ValueError, match="read-only"):
        catalogue.features["one"][0] = 1
    n = opened.n_items
    have = int((numbers % 4 != 0).sum())
    assert f"features.one: {have} of {n} items have it; 3 numbers; a note" in caplog.messages
    assert f"features: {n - have} of {n} items have none of them" in caplog.messages


def test_each_item_is_encoded_once(split: Path) -> None:
    first, calls = made(split, a=Counted())
    assert calls == 1
    for options in ({}, {"pca": 2}, {"whiten": True}, {"normalize": "mean"}, {"shuffle": 3}):
        path, calls = made(split, a=Counted.model_validate(options))
        assert calls == 0
        assert (path == first) == (not options)
    assert made(split, a=Counted(factor=3))[1] == 1
    other = prepare(DATA.model_copy(update={"seed": 1}), Clients())
    path, calls = made(other, a=Counted())  # the same items, other train interactions
    assert path != first


def test_damaged_files_are_made_anew(split: Path) -> None:
    path, _ = made(split, a=Counted())
    good, content = read_arrays(path), path.read_bytes()
    for damaged in (path, next((cache_folder() / "features").iterdir())):
        damaged.write_bytes(damaged.read_bytes()[:-5] + b"12345")
        path.write_bytes(content[:-5] + b"12345")
        again, calls = made(split, a=Counted())
        assert {n: bits(a) for n, a in read_arrays(again)[0].items()} == {
            n: bits(a) for n, a in good[0].items()
        }
        assert read_arrays(again)[1] == good[1]
        assert calls == (damaged != path)


def test_a_copy_stands_in_where_it_is_of_the_same(split: Path, tmp_path: Path) -> None:
    path, _ = made(split, a=Counted())
    copy = tmp_path / "features.safetensors"
    copy.write_bytes(path.read_bytes())
    path.unlink()
    assert prepare_features({"a": Counted()}, split, copy) == copy
    assert prepare_features({"a": Counted(pca=2)}, split, copy) != copy


def test_features_of_other_items_are_refused(split: Path) -> None:
    path, _ = made(split, a=Counted())
    other = open_split(prepare(Synthetic(users=9, items=40), Clients()))
    with pytest.raises(RunFolderError, match=r"is of \d+ items, the data has \d+"):
        open_catalogue(other, path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", "got float32 [30], expected float32 [30, ...]"),
        ("length", "got float32 [29, 3], expected float32 [30, ...]"),
        ("mask", "present is float32 [30], expected bool [30]"),
        ("number", "what it has for item '7' is not finite"),
        ("nothing", "no item has it"),
    ],
)
def test_what_an_encoder_returns_is_checked(split: Path, fault: str, message: str) -> None:
    if open_split(split).n_items != 30:
        pytest.fail("the data should have all items")
    with pytest.raises(DataError) as raised:
        made(split, mine=Counted(fault=fault))
    assert str(raised.value) == f"features.mine: {message}"


def test_the_section_names_what_is_wrong() -> None:
    with pytest.raises(ConfigError) as raised:
        Experiment.model_validate(
            {
                "data": "synthetic",
                "features": {
                    "text": {"name": "file", "path": "a.npy", "by_row": True, "pca": 0},
                    "two words": "file",
                    "image": {"name": "fiel", "path": "a.npy"},
                    "plain": {"path": "a.npy"},
                },
            }
        )
    assert [fault.where for fault in raised.value.faults] == [
        "features.text.pca",
        "features.'two words'",
        "features.image",
        "features.plain",
    ]
    assert "did you mean 'file'?" in str(raised.value)


def test_the_section_survives_yaml_and_paths_are_expanded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    feature = {"name": "file", "path": "${SOME_DATA}/a.npy", "by_row": True, "shuffle": 1}
    experiment = Experiment.model_validate({"data": "synthetic", "features": {"a": feature}})
    assert experiment.model_dump()["features"]["a"]["path"] == str(tmp_path / "a.npy")
    import yaml

    again = Experiment.model_validate(yaml.safe_load(experiment.to_yaml()))
    assert again == experiment
