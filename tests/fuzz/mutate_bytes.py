"""Damage of plain bytes."""

from random import Random

_NUMBERS = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def damaged_bytes(content: bytes, other: bytes, rng: Random) -> bytes:
    """Return bytes with one damage: a flip, a cut, a copy, a number, or a splice with others."""
    at, size = rng.randint(0, len(content)), rng.choice((1, 1, 2, 4, 8, 16, 64))
    before, behind, rest = content[:at], content[at:], content[at + size :]
    match rng.randrange(8):
        case 0 if behind:
            return before + bytes([behind[0] ^ 1 << rng.randrange(8)]) + behind[1:]
        case 1:
            return before + rest
        case 2:
            return before
        case 3:
            return before + behind[:size] + behind
        case 4:
            return before + rng.randbytes(size) + rest
        case 5:
            width = rng.choice((1, 2, 4, 8))
            number: int = rng.choice(_NUMBERS) % 2 ** (8 * width)
            return before + number.to_bytes(width, "little") + content[at + width :]
        case 6:
            return before + other[rng.randint(0, len(other)) :]
        case _:
            start = rng.randint(0, len(other))
            return before + other[start : start + size] + rest
