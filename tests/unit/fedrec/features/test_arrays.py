"""Arrays of a file reach the items by raw id, and what does not fit is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedrec.errors import ConfigError, DataError
from fedrec.features import ArrayFile
from fedrec.types import FloatArray
from tests.planted import catalogue_of

ITEMS = catalogue_of(5)
IDS = np.array([3, 9, 0, 4, 1])
ROWS = np.stack([IDS, IDS * 10], 1).astype(np.float16)
EXPECTED = [[0, 0], [1, 10], [0, 0], [3, 30], [4, 40]]


def encoded(path: Path, **options: Any) -> tuple[FloatArray, list[bool], tuple[str, ...]]:
    encoder = ArrayFile.model_validate({"path": path, **options})
    result = encoder.encode(ITEMS, lambda *_: None)
    return result.values, result.present.tolist(), result.notes


def written(path: Path, **arrays: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, arrays["rows"])
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors"])
@pytest.mark.parametrize("ids", ["numbers", "text", "ids.txt", "ids.npy"])
def test_rows_are_found_by_raw_id(tmp_path: Path, name: str, ids: str) -> None:
    if ids in ("numbers", "text"):
        if name == "a.npy" or (name == "a.safetensors" and ids == "text"):
            return  # such a file cannot hold such ids
        arrays = {"rows": ROWS, "ids": IDS.astype(np.str_) if ids == "text" else IDS}
        given = {"ids": "ids"}
    else:
        arrays, given = {"rows": ROWS}, {"ids_file": str(tmp_path / ids)}
        np.save(tmp_path / "ids.npy", IDS)
        (tmp_path / "ids.txt").write_text("\n".join(map(str, IDS)) + "\n", encoding="utf-8")
    values, present, notes = encoded(written(tmp_path / name, **arrays), **given)
    assert values.tolist() == EXPECTED
    assert values.dtype == np.float32
    assert present == [True, True, False, True, True]
    assert notes == (f"{name}: 1 rows are of no item of the data, and left out",)


def test_rows_that_hold_nothing_are_masked(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", rows=ROWS, ids=IDS, there=IDS != 3, more=ROWS)
    values, present, notes = encoded(path, array="rows", ids="ids", mask="there")
    assert present == [True, True, False, False, True]
    assert notes == ("a.npz: 1 rows are of no item of the data, and left out",)
    assert not values[3].any()


def test_rows_stand_for_the_items_if_the_user_says_so(tmp_path: Path) -> None:
    values, present, _ = encoded(written(tmp_path / "a.npy", rows=ROWS), by_row=True)
    assert np.array_equal(values, ROWS) and all(present)


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"rows": ROWS[:4]}, {"by_row": True}, "has 4 rows for 5 items"),
    ({"rows": ROWS, "ids": IDS[:3]}, {"ids": "ids"}, "ids 'ids' has 3 entries for 5 rows"),
    ({"rows": ROWS, "ids": IDS + 10}, {"ids": "ids"}, "none of its ids, such as '13', is one"),
    ({"rows": ROWS, "ids": IDS * 0}, {"ids": "ids"}, "id '0' has two rows"),
    ({"rows": ROWS, "ids": IDS * 0.5}, {"ids": "ids"}, "are float64 [5], expected text or whole"),
    (
        {"rows": ROWS + np.float16("inf"), "ids": IDS},
        {"ids": "ids"},
        "the row of item '0' is not finite (4 such",
    ),
    ({"rows": ROWS[:, 0]}, {"by_row": True}, "is float16 [5], expected numbers with a row for"),
    ({"rows": ROWS.astype(np.str_)}, {"by_row": True}, "expected numbers with a row for each"),
    ({"rows": ROWS, "more": ROWS}, {"by_row": True}, "set array (known: more, rows)"),
    ({"rows": ROWS}, {"by_row": True, "array": "row"}, "no array 'row' (did you mean 'rows'?)"),
    ({"rows": ROWS}, {"ids": "id"}, "ids: there is no array 'id' (known: rows)"),
    ({"rows": ROWS.astype(object)}, {"by_row": True}, "no arrays can be read from it: Object"),
]


@pytest.mark.parametrize(("arrays", "options", "message"), BAD)
def test_what_does_not_fit_is_said(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as raised:
        encoded(path, **options)
    assert str(raised.value).startswith(f"{path}: ") and message in str(raised.value)


def test_files_that_hold_no_arrays_are_named(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz", "a.safetensors"):
        with pytest.raises(DataError, match="no such file"):
            encoded(tmp_path / name, by_row=True)
        (tmp_path / name).write_bytes(b"text")
        with pytest.raises(DataError, match="no arrays can be read from it"):
            encoded(tmp_path / name, by_row=True)


@pytest.mark.parametrize("options", [{}, {"ids": "ids", "by_row": True}])
def test_how_rows_belong_to_items_is_said_once(options: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"^ids: name the array of the raw ids, or give ids_file or by_row"
    ):
        ArrayFile.model_validate({"path": "a.npy", **options})
