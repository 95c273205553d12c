"""A function of the user's makes a feature, and its faults are told in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, DataError
from fedrec.features import Function
from fedrec.imports import searching

ITEMS = Catalogue(
    np.array(["a", "bb", "ccc"], object), {"title": np.array(["x", "", "xyz"], object)}
)
SOURCE = """
import numpy as np

def lengths(ids, columns):
    rows = [[len(i), len(t)] if t else [np.nan, np.nan] for i, t in zip(ids, columns["title"])]
    return np.array(rows)

def flat(ids, columns):
    return np.zeros(len(ids))

def fewer(ids, columns):
    return np.zeros((2, 3))

def ragged(ids, columns):
    return [[0], [1, 2], [3]]

def fails(ids, columns):
    raise KeyError("genre")

numbers = 3
"""


def function_of(folder: Path, name: str, source: str = SOURCE, **options: Any) -> Function:
    module = f"made_{folder.name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    with searching([folder]):
        return Function.model_validate({"function": f"{module}:{name}", **options})


def test_rows_of_nan_are_items_without_the_feature(tmp_path: Path) -> None:
    result = function_of(tmp_path, "lengths").encode(ITEMS, lambda *_: None)
    assert result.values.tolist() == [[1, 1], [0, 0], [3, 3]]
    assert result.values.dtype == np.float32
    assert result.present.tolist() == [True, False, True]


def test_the_source_and_what_it_is_called_with_decide(tmp_path: Path) -> None:
    encoder = function_of(tmp_path, "lengths")
    prints = {encoder.fingerprint(ITEMS), function_of(tmp_path, "flat").fingerprint(ITEMS)}
    prints.add(function_of(tmp_path, "lengths", version="2").fingerprint(ITEMS))
    prints.add(encoder.fingerprint(Catalogue(ITEMS.item_ids)))
    prints.add(function_of(tmp_path, "lengths", SOURCE + "# other").fingerprint(ITEMS))
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flat", r"returned an array \[3\], expected \[3, \.\.\.\]: a row of numbers for each"),
        ("fewer", r"returned an array \[2, 3\], expected \[3, \.\.\.\]"),
        ("ragged", r"ValueError: setting an array element"),
        ("fails", r"KeyError: 'genre'"),
    ],
)
def test_what_a_function_does_wrong_is_said(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=rf":{name}: {message}"):
        function_of(tmp_path, name).encode(ITEMS, lambda *_: None)


def test_what_is_no_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^function: expected a function, got made_.*:numbers"):
        function_of(tmp_path, "numbers")
    with pytest.raises(ConfigError, match=r"^function: module 'made_.*' has no 'length'"):
        function_of(tmp_path, "length")
    with pytest.raises(ConfigError, match=r"^function: 'lengths': expected package\.module:Class"):
        Function(function="lengths")
