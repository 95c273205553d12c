"""Damage of JSON: types, huge numbers, deep nesting, keys that are missing or too many."""

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

_LEAVES: tuple[Any, ...] = (
    *(None, True, False, "", "0", "\n", "\x1b[2J", "é\ud800", [], {}, [[]], {"": 0}),
    *(0, 1, 2, 3, 4, -1, 7, 0.5, -0.0, 1e308, float("inf"), float("nan"), 2**16, 2**31),
    *(2**40, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**70), 10**400),
)
_DEEP, _DEPTHS = "deep", (3, 200, 1_000, 100_000)


def damaged_json(text: str, other: str, rng: Random) -> str:
    """Return JSON with one value in place of another, left out, added or moved.

    Args:
        text: JSON.
        other: JSON of the same kind, of which values are taken.
        rng: Draws the damage.

    Raises:
        ValueError: If one is no JSON.
    """
    tree = [json.loads(text)]
    values = [container[key] for container, key in (*_places(tree), *_places([json.loads(other)]))]
    container, key = rng.choice([*_places(tree)])
    value = container[key]
    match rng.randrange(8):
        case 0 if container is not tree:
            del container[key]
        case 1 if isinstance(value, list):
            value.insert(rng.randint(0, len(value)), deepcopy(rng.choice(values)))
        case 1 if isinstance(value, dict):
            value[rng.choice(("", "x", *value))] = deepcopy(rng.choice(values))
        case 2 if isinstance(value, dict) and value:
            old = rng.choice([*value])
            value[old + rng.choice("0x/ ")] = value.pop(old)
        case 2 | 3 if isinstance(value, list):
            rng.shuffle(value)
        case 3 | 4 if type(value) in (int, float):
            container[key] = value + rng.choice((-1, 1, -(2**32), 2**32))
        case 4 if isinstance(value, str) and value[:1] in ("{", "["):
            container[key] = damaged_json(value, value, rng)
        case 5:
            container[key] = deepcopy(rng.choice(values))
        case 6:
            container[key] = _DEEP
        case _:
            container[key] = deepcopy(rng.choice(_LEAVES))
    depth, ends = rng.choice(_DEPTHS), rng.choice(("[]", '{"":', " []"))
    nested = ends[0] * depth + "]" * depth if ends[0] != "{" else ends * depth + "0" + "}" * depth
    return json.dumps(tree[0]).replace(f'"{_DEEP}"', nested)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value in a tree, as the container and the key in it."""
    stack = [tree]
    while stack:
        container = stack.pop()
        for key in container if isinstance(container, dict) else range(len(container)):
            yield container, key
            if isinstance(container[key], dict | list):
                stack.append(container[key])
