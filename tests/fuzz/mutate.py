"""Damage of inputs that knows their form: files that are missing, renamed or damaged inside."""

from collections.abc import Sequence
from random import Random

from tests.fuzz.files import Files
from tests.fuzz.mutate_array import MAGIC, damaged_array
from tests.fuzz.mutate_bytes import damaged_bytes
from tests.fuzz.mutate_json import damaged_json

_DAMAGES = (1, 1, 1, 1, 2, 2, 3, 6)


def mutated(files: Files, others: Sequence[Files], rng: Random) -> dict[str, bytes]:
    """Return an input with a few damages.

    Args:
        files: The input.
        others: Inputs of the same decoder, of which files and bytes are taken.
        rng: Draws the damages.
    """
    damaged = dict(files)
    for _ in range(rng.choice(_DAMAGES)):
        other = rng.choice(others)
        if not damaged or rng.random() < 0.1:
            _rearrange(damaged, other, rng)
        else:
            name = rng.choice(sorted(damaged))
            damaged[name] = _damaged(damaged[name], other.get(name, damaged[name]), rng)
    return damaged


def _rearrange(files: dict[str, bytes], other: Files, rng: Random) -> None:
    """Leave a file out, add one, rename one or exchange the contents of two."""
    names, others = sorted(files), sorted(other)
    match rng.randrange(5):
        case 0 if names:
            del files[rng.choice(names)]
        case 1 if others:
            name = rng.choice(others)
            files[name] = other[name]
        case 2 if names:
            name = rng.choice(names)
            at = rng.randint(0, len(name))
            renamed = name[:at] + rng.choice(("", "0", "9", "-1", "@", "x", "/")) + name[at + 1 :]
            files[renamed] = files.pop(name)
        case 3 if names and others:
            files[rng.choice(others)] = files[rng.choice(names)]
        case _ if names:
            one, two = rng.choice(names), rng.choice(names)
            files[one], files[two] = files[two], files[one]


def _damaged(content: bytes, other: bytes, rng: Random) -> bytes:
    if rng.random() < 0.2:
        return damaged_bytes(content, other, rng)
    if content.startswith(MAGIC):
        return damaged_array(content, rng)
    try:
        return damaged_json(content.decode(), other.decode(), rng).encode()
    except (ValueError, RecursionError):
        return _damaged_line(content, other, rng)


def _damaged_line(content: bytes, other: bytes, rng: Random) -> bytes:
    """Return lines of JSON with damage in one of them, or bytes with any damage."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        line, like = lines[at].decode(), rng.choice(other.split(b"\n")).decode()
        lines[at] = damaged_json(line, like or line, rng).encode()
    except (ValueError, RecursionError):
        return damaged_bytes(content, other, rng)
    return b"\n".join(lines)
