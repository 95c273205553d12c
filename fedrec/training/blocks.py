"""How many clients are computed together: within a budget, and fewer once memory ran out."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from fedrec.errors import EngineError
from fedrec.types import IntArray

T = TypeVar("T")


def bounded_slices(offsets: IntArray, budget: int, most: int | None = None) -> list[slice]:
    """Cut consecutive clients so that what each slice takes is bounded.

    Args:
        offsets: int64 [c + 1], what the clients before each one take, in any unit.
        budget: Of a slice; a client that takes more stands alone.
        most: Clients of a slice at most; None: any number.

    Returns:
        Slices of the clients, in order, none empty.
    """
    cuts, start = [], 0
    for at in range(1, len(offsets) - 1):
        if offsets[at + 1] - offsets[start] > budget or at - start == most:
            cuts.append(slice(start, at))
            start = at
    return [*cuts, slice(start, len(offsets) - 1)] if len(offsets) > 1 else []


class Together:
    """Computes some clients, or users, together; and fewer of them once memory ran out.

    Args:
        doing: What is done with them, for messages, such as ``trained``.
        setting: Which setting bounds how many.
        advice: What to do about one that does not fit alone.

    Attributes:
        most: How many fit together, as far as is known; None: as many as came.
    """

    def __init__(self, doing: str, setting: str, advice: str) -> None:
        self.doing, self.setting, self.advice = doing, setting, advice
        self.most: int | None = None
        self._reason, self._said = "", True

    def compute(
        self, rows: slice, function: Callable[[slice], T], named: Callable[[int], str]
    ) -> list[T]:
        """Compute some rows together, or their halves where they do not fit in memory.

        Args:
            rows: Neighbouring rows.
            function: From rows to their result.
            named: From a row to who it is, for an error.

        Returns:
            The results of the rows, or of their halves, in order.

        Raises:
            EngineError: If a row does not even fit alone.
        """
        size = rows.stop - rows.start
        if self.most is None or size <= self.most:
            try:
                return [function(rows)]
            except (MemoryError, RuntimeError) as error:
                if not _ran_out(error):
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                if size <= 1:
                    raise EngineError(
                        f"{named(rows.start)} does not fit in memory ({reason}); {self.advice}"
                    ) from error
            # By now the error, whose stack holds what was computed, is gone.
            torch.cuda.empty_cache()
            self.most, self._reason, self._said = (size + 1) // 2, reason, False
        middle = (rows.start + rows.stop) // 2
        halves = slice(rows.start, middle), slice(middle, rows.stop)
        return [result for half in halves for result in self.compute(half, function, named)]

    def note(self) -> str:
        """Return a line about how many fit, once after it has changed; else ""."""
        if self._said:
            return ""
        self._said = True
        return (
            f"memory ran out ({self._reason}): from now on {self.most} clients are {self.doing} "
            f"together at most; {self.setting}: {self.most} says so from the start"
        )


def notes_of(every: Sequence[Together]) -> tuple[str, ...]:
    """Return what is to be said of some, each once."""
    return tuple(filter(None, (each.note() for each in every)))


def _ran_out(error: Exception) -> bool:
    """Return whether memory ran out, of the processor or of a GPU."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in text for words in ("can't allocate memory", "out of memory")
    )
