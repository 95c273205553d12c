"""Strategies are made of small parts: new ones are short, and none copies from another."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "strategies"
EQUAL = 6


def lines_of(path: Path) -> list[str]:
    """The lines that are no imports and not empty; what all files of a kind share is said there."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("import ", "from "))]


def test_no_two_files_share_six_lines() -> None:
    places: dict[tuple[str, ...], str] = {}
    faults = set()
    for path in sorted(ROOT.rglob("*.py")):
        name, lines = path.relative_to(ROOT).as_posix(), lines_of(path)
        for start in range(len(lines) - EQUAL + 1):
            block = tuple(lines[start : start + EQUAL])
            if places.setdefault(block, name) != name:
                faults.add(f"{places[block]} and {name}: {block[0]}")
    assert faults == set()


@pytest.mark.parametrize(
    ("file", "most"), [("aggregations/median.py", 25), ("server_optimizers/yogi.py", 20)]
)
def test_a_new_part_is_short(file: str, most: int) -> None:
    """With its docstrings and imports."""
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= most
