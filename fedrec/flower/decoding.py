"""Read a value from JSON and arrays by its declared type: nothing else gets past."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from fedrec.aggregation import codec
from fedrec.aggregation.codec import Payloads
from fedrec.aggregation.update import UpdateBatch

_INTEGERS = range(-(2**63), 2**64)
# Of arrays that a type declares by their elements; all others hold floats.
_KINDS = {np.int64: "i", np.uint8: "u"}


def decoded(
    kind: Any,
    tree: Any,
    array: Callable[[str], Any],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Any:
    """Return a value of a type.

    Args:
        kind: A dataclass, a mapping, a tuple, an array, one of several literals, a number, a text
            or a truth value; or None and one of these.
        tree: What JSON has of it: a mapping by field, a list of pairs, a list, the name of the
            array. Updates of single clients are their `Payloads`, decoded to plain values.
        array: From the name of an array to it. Whole numbers become int64.
        shapes: Of the parameters of which there may be updates of single clients; None: any.

    Raises:
        ValueError: If it is something else.
        ProtocolError: If payloads are not what they should be.
    """
    inner = partial(decoded, array=array, shapes=shapes)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _one_of(parts, tree, inner)
    if origin is np.ndarray:
        return _array(parts[-1], tree, array)
    if kind is UpdateBatch:
        return codec.decode(inner(Payloads, tree), shapes).decoded()
    if is_dataclass(kind):
        make: Any = kind
        hints = _hints(make)
        _require(isinstance(tree, dict) and tree.keys() == hints.keys(), tree)
        return make(**{name: inner(hints[name], tree[name]) for name in hints})
    if origin is Mapping:
        _require(isinstance(tree, list) and all(map(_is_pair, tree)), tree)
        keys = [inner(parts[0], key) for key, _ in tree]
        values = [inner(parts[1], each) for _, each in tree]
        _require(len({*keys}) == len(keys), tree)
        return dict(zip(keys, values, strict=True))
    if origin is tuple:
        _require(isinstance(tree, list), tree)
        each = parts[0] if parts[-1] is Ellipsis else None
        _require(each is not None or len(parts) == len(tree), tree)
        kinds = [each] * len(tree) if each is not None else parts
        return tuple(inner(k, part) for k, part in zip(kinds, tree, strict=True))
    if origin is Literal:
        _require(isinstance(tree, str) and tree in parts, tree)
    elif kind is float:
        _require(type(tree) in (int, float), tree)
        return float(tree)
    else:
        _require(type(tree) is kind and (kind is not int or tree in _INTEGERS), tree)
    return tree


def _one_of(kinds: tuple[Any, ...], tree: Any, inner: Callable[[Any, Any], Any]) -> Any:
    """Return None or a value of the other type; or one of the literals of all the types."""
    if type(None) in kinds:
        (kind,) = {*kinds} - {type(None)}
        return None if tree is None else inner(kind, tree)
    accepted = [literal for kind in kinds for literal in get_args(kind)]
    _require(isinstance(tree, str) and tree in accepted, tree)
    return tree


def _array(dtype: Any, name: Any, array: Callable[[str], Any]) -> Any:
    _require(isinstance(name, str), name)
    value = array(name)
    (element,) = get_args(dtype) or (Any,)
    kind = _KINDS.get(element, "f")
    _require(value.dtype.kind == kind, value.dtype)
    return value.astype(np.int64, copy=False) if kind == "i" else value


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _is_pair(each: Any) -> bool:
    return isinstance(each, list) and len(each) == 2


def _require(fits: bool, came: Any) -> None:
    if not fits:
        raise ValueError(f"not as declared: {came!r:.80}")
