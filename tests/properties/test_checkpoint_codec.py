"""A strategy's state survives a checkpoint with every bit, or is refused by name."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save

from fedrec.errors import ConfigError, RunFolderError
from fedrec.plugins import Plugin
from fedrec.runs.checkpoint import (
    Checkpoint,
    Origin,
    pack,
    read_checkpoint,
    read_origin,
    unpack,
    write_checkpoint,
)
from fedrec.runs.log import RoundRecord, Seconds
from strategies import STRATEGIES


@dataclass(frozen=True, slots=True)
class Moments:
    """A state as a strategy has it."""

    tables: Mapping[str, Any]
    rounds: int = 0
    more: Any = None


@dataclass(frozen=True)
class Pair:
    """A state within a state."""

    left: Any
    right: Any


@dataclass
class Thawed:
    """Not frozen."""

    x: int = 0


@dataclass(frozen=True)
class Derived:
    """Has a field that its constructor does not take."""

    x: int = 0
    y: int = field(init=False, default=3)


class Toy(Plugin):
    """Any plug-in of this module."""


TOY = Toy()
DTYPES = st.sampled_from(["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | ARRAYS
    | ARRAYS.filter(lambda array: array.size > 0).map(lambda array: array.reshape(-1)[0])
)
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text())


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(Moments, st.dictionaries(st.text(), inner, max_size=2), st.integers(), inner)
    )


def same(one: Any, other: Any) -> bool:
    """Equal to the bit and of the same kind, all the way down."""
    if isinstance(one, np.ndarray | np.generic):
        alike = type(one) is type(other) and one.dtype == other.dtype and one.shape == other.shape
        return bool(alike and one.tobytes() == other.tobytes())
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return bool(one.hex() == other.hex())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Pair | Moments):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(one == other)


@settings(deadline=None)
@given(st.recursive(LEAVES, nested, max_leaves=12))
def test_a_state_comes_back_with_every_bit(state: Any) -> None:
    tree, packed = pack(state, TOY)
    on_disk = load(save(packed, {"x": "y"})) if packed else {}
    assert same(unpack(json.loads(json.dumps(tree)), on_disk, TOY), state)


@given(arrays.arrays("f4", (3, 4)))
def test_the_layout_of_an_array_does_not_matter(array: Any) -> None:
    for view in (array.T, array[::2], array[:, ::-1], np.asfortranarray(array)):
        tree, packed = pack(view, TOY)
        assert same(unpack(tree, load(save(packed)), TOY), np.array(view, order="C"))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": (1, object())}, r"its state\['a'\]\[1\] is of type object"),
        (Moments({"item": {1, 2}}), r"its state\.tables\['item'\] is of type set"),
        (Thawed(), "Thawed"),
        (Derived(), "Derived"),
        (Pair(np.random.default_rng(0), 1), r"its state\.left is of type numpy.*Generator"),
        (np.array(["a"]), "numpy.ndarray of <U1"),
        (np.array([object()]), "numpy.ndarray of object"),
        (np.zeros(2, complex), "numpy.ndarray of complex128"),
        (np.zeros(2, ">f4"), "numpy.ndarray of >f4"),
        (1j, "complex"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_kept_is_named(state: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        pack(state, TOY)
    assert "Toy: its state" in str(caught.value)
    assert "frozen dataclasses" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataclass_that_only_another_module_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"strategy fedavg: its state is of type .*Moments"):
        pack(Moments({}), STRATEGIES["fedavg"]())


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_state_of_every_strategy_can_be_kept(name: str) -> None:
    strategy = STRATEGIES[name]()
    params = {"item": np.ones((5, 2), np.float32), "w": np.array(2, np.float32)}
    state = strategy.init(params, 4)
    tree, packed = pack(state, strategy)
    again = unpack(json.loads(json.dumps(tree)), packed, strategy)
    assert type(again) is type(state)
    assert pack(again, strategy)[0] == tree


def test_packing_leaves_nothing_to_the_garbage_collector() -> None:
    state = {"a": (1, [2.0, np.ones(3)]), "b": Moments({"item": np.ones(2)})}
    gc.collect()
    gc.disable()
    try:
        pack(state, TOY)
        assert gc.collect() == 0
    finally:
        gc.enable()


# The file ------------------------------------------------------------------------------------


def checkpoint(**changes: Any) -> Checkpoint:
    values: dict[str, Any] = {
        "record": RoundRecord(round=3, clients=2, loss=0.1, seconds=Seconds(train=1 / 3)),
        "params": {"item": np.arange(6, dtype=np.float32).reshape(2, 3).T, "w": np.float32(2)},
        "state": Moments({"item": np.ones(2)}, 3),
        "evaluates": True,
        "origin": Origin({"seed": 0, "x": [1.5, None]}, "data", "code", "flat", 2),
        "started": "2026-01-01T00:00:00+00:00",
        "resumed": (1,),
    }
    return Checkpoint(**{**values, **changes})


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path, TOY) is None
    assert read_origin(tmp_path) is None
    written = checkpoint()
    write_checkpoint(tmp_path, written, TOY)
    found = read_checkpoint(tmp_path, TOY)
    assert found is not None
    assert found.record == written.record
    assert (found.evaluates, found.started, found.resumed) == (True, written.started, (1,))
    assert found.origin == read_origin(tmp_path) == written.origin
    assert same(found.state, written.state)
    assert same(found.params["item"], np.ascontiguousarray(written.params["item"]))
    assert found.params["w"].shape == ()


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_checkpoint_that_is_cut_off_is_named(length: int, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(), TOY)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunFolderError, match=r"checkpoint\.safetensors: cannot be read.*--over"):
        read_checkpoint(tmp_path, TOY)


def test_the_state_of_another_strategy_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(), TOY)
    with pytest.raises(RunFolderError, match=r"cannot be read \(KeyError"):
        read_checkpoint(tmp_path, STRATEGIES["fedavg"]())
