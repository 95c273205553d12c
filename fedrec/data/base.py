"""The base of every data set: its filters, its split, its protocol, and its errors."""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fedrec.errors import DataError
from fedrec.plugins import Plugin, Section
from fedrec.types import Interactions


class DataProblems(DataError):
    """One or more problems of the data.

    Args:
        lines: Each says one problem, and begins with the file or the data set.
        rest: The interactions of the rows without problems, for further checks, if there are any.
    """

    def __init__(self, lines: Iterable[str], rest: Interactions | None = None) -> None:
        self.lines, self.rest = tuple(lines), rest
        source = self.lines[0].partition(": ")[0] + ": "
        others = [line.removeprefix(source) for line in self.lines[1:]]
        super().__init__("; ".join([self.lines[0], *others]))


class SplitBy(Section):
    """How the interactions are held out.

    Args:
        name: ``leave_one_out`` (each user's latest is the test item, the second latest the
            validation item), ``temporal`` (the globally latest interactions), or ``ratio``
            (a random share of each user's).
        seed: breaks ties in time and draws the random shares; not the run's seed, so that runs
            share their split.
        valid: share of the interactions held out for validation (``temporal``, ``ratio``).
        test: share held out for the test (``temporal``, ``ratio``).
        cold_items: share of the items that are held out from everybody's training, for the
            evaluation of items that nobody has taken yet: half of them for validation, half for
            the test. They are chosen by a hash of the seed and the raw id, after all filters, and
            whatever the time of their interactions. The other interactions are split as ever.
            Cold items are never drawn while training, and ranked in slices of their own, see
            ``evaluate.slices``.
        users: hold items out of so many users alone, chosen by a hash of the seed and the raw id;
            the others train on all they have, which costs no ranking (under ``temporal`` what
            they did later is dropped). None: of all users.
    """

    name: Literal["leave_one_out", "temporal", "ratio"] = "leave_one_out"
    seed: int = Field(0, ge=0)
    valid: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)
    cold_items: float = Field(0.0, ge=0, lt=1)
    users: int | None = Field(None, ge=1)

    def without_effect(self, run: Any) -> list[str]:
        """Say that leaving one out has no shares."""
        if self.name != "leave_one_out":
            return []
        return self.unused("leave_one_out holds out one item each", "valid", "test")

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError("valid + test must stay below 1, or nothing is left to train on")
        return self


class DataSet(Plugin):
    """A source of interactions, and how they are filtered and split.

    Args:
        split: How interactions are held out.
        protocol: ``clean`` (training negatives come from all items but the user's train items;
            full ranking), or ``legacy`` (negatives also leave out the held-out items, 99 sampled
            candidates): a leak, there only to reproduce published rows, and labelled everywhere.
        threshold: keep only interactions rated at or above it; None keeps all.
        k_core: repeat until every user and item has at least this many interactions.
        short_users: users with too few interactions to hold any out: ``error``, keep them in
            training only (``train_only``), or ``drop`` them. Interactions with cold items do not
            count; whoever has no others is dropped by ``train_only`` too.
        duplicates: the same user and item twice: ``error``, or keep the ``first`` or ``last``.
    """

    split: SplitBy = SplitBy()
    protocol: Literal["clean", "legacy"] = "clean"
    threshold: float | None = None
    k_core: int = Field(0, ge=0)
    short_users: Literal["error", "train_only", "drop"] = "error"
    duplicates: Literal["error", "first", "last"] = "error"

    @model_validator(mode="after")
    def _ranks_cold_items(self) -> Self:
        if self.split.cold_items and self.protocol == "legacy":
            raise ValueError("split.cold_items: protocol legacy ranks no cold items; use clean")
        return self

    @abstractmethod
    def load(self) -> Interactions:
        """Read all interactions, unfiltered.

        Raises:
            DataError: If the files are missing or damaged: the file, the line, the way out.
        """

    def is_here(self) -> bool:
        """Return whether `load` can read it without fetching it: whether its ``path`` exists."""
        path = getattr(self, "path", None)
        return path is None or Path(path).exists()

    def unread(self) -> list[str]:
        """Return the columns of its file that `load` does not read."""
        return []

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash whatever decides what `load` returns: the content of files, the parameters.

        The name and the place of a file do not matter.
        """
