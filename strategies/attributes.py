"""The attributes of an object as a `State`, so that a new object of its class can go on with them.

Kept are None, truth values, numbers, texts, numpy arrays, Flower's array records, and lists, tuples
and dictionaries of these. A dictionary has texts as keys.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedrec.types import FloatArray, State


def state_of(attributes: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
    """Return attributes as a state.

    Args:
        attributes: By name.

    Returns:
        The state, and the attributes that no state can hold.
    """
    from flwr.app import ArrayRecord

    arrays: dict[str, FloatArray] = {}
    values: dict[str, Any] = {}
    others: dict[str, Any] = {}

    def described(value: Any, place: str, into: dict[str, FloatArray]) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.kind not in "biuf":
                raise TypeError(value.dtype)
            into[place] = np.array(value)
            return {"array" if isinstance(value, np.ndarray) else "scalar": place}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) in (list, tuple):
            inner = [described(v, f"{place}:{k}", into) for k, v in enumerate(value)]
            return {type(value).__name__: inner}
        if type(value) is dict and all(type(key) is str for key in value):
            return {"dict": {k: described(v, f"{place}:{k}", into) for k, v in value.items()}}
        if isinstance(value, ArrayRecord):
            named = {str(k): array.numpy() for k, array in value.items()}
            return {"record": {k: described(v, f"{place}:{k}", into) for k, v in named.items()}}
        raise TypeError(type(value))

    for name, value in attributes.items():
        of_attribute: dict[str, FloatArray] = {}
        try:
            values[name] = described(value, name, of_attribute)
        except TypeError:
            others[name] = value
        else:
            arrays |= of_attribute
    return State(arrays, values), others


def attributes_of(state: State) -> dict[str, Any]:
    """Return the attributes that `state_of` made a state of; arrays are copies."""
    return {name: _made(tree, state.arrays) for name, tree in state.values.items()}


def _made(tree: Any, arrays: Mapping[str, FloatArray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    return _MAKERS[kind](content, arrays)


def _record(content: Any, arrays: Mapping[str, FloatArray]) -> Any:
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(_made(each, arrays)) for name, each in content.items()})


_MAKERS: Mapping[str, Callable[[Any, Mapping[str, FloatArray]], Any]] = {
    "array": lambda place, arrays: arrays[place].copy(),
    "scalar": lambda place, arrays: arrays[place][()],
    "list": lambda content, arrays: [_made(each, arrays) for each in content],
    "tuple": lambda content, arrays: tuple(_made(each, arrays) for each in content),
    "dict": lambda content, arrays: {name: _made(each, arrays) for name, each in content.items()},
    "record": _record,
}
