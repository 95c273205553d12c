"""What the tests of bad input share: a user's folder, and the contract of a refusal.

The contract: exit code 2; the last line on stderr, and no other, begins with ``error: ``; it names
the field or the line, what came or what was expected, and the way out; no traceback; the folder
holds what it held before, so the corrected second try works.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["HEAD", "ROWS", "SMALL", "TABLE", "Done", "Fedrec", "content", "of", "refused", "table"]

SMALL = """\
data: {name: synthetic, users: 40, items: 60, taste_groups: 2, interactions_per_user: 12}
model: {name: mf, embedding_dim: 4}
train: {backend: torch}
rounds: {count: 1}
engine: {name: serial}
evaluate: {metrics: [ndcg@5]}
"""
TABLE = """\
data: {name: csv, path: r.csv, columns: {user: user, item: item, rating: rating, timestamp: time}}
model: {name: popularity}
evaluate: {metrics: [ndcg@5]}
"""
ROWS = [f"{u},{i},{(u + i) % 5 + 1},{100 * u + i}" for u in range(12) for i in range(u % 3, 20, 2)]
HEAD = "user,item,rating,time"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Fedrec(Protocol):
    def __call__(self, *arguments: str) -> Done: ...


def table(*rows: str, head: str = HEAD) -> None:
    Path("r.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


def content() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*")}


def refused(command: Fedrec, arguments: list[str], named: list[str]) -> str:
    """See the contract at the head of this file; gives the line."""
    before = content()
    done = command(*arguments)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    assert done.err.endswith(errors[0] + "\n")
    assert done.out == ""
    for part in named:
        assert part in errors[0]
    assert content() == before
    return errors[0]


def of(*sets: str, config: str = "small.yaml") -> list[str]:
    return ["run", config, "--out", "R", *(word for each in sets for word in ("--set", each))]
