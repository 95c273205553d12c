"""Pass exceptions between processes as plain text, so nothing has to be picklable."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass

from fedrec import errors
from fedrec.errors import EngineError, FedRecError

__all__ = ["Failure"]


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception, as text.

    Args:
        kind: name of its class.
        message: what it says.
        traceback: where it came from, as Python prints it.
    """

    kind: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the text of an exception."""
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))

    @classmethod
    def from_json(cls, text: str) -> Failure:
        """Invert `to_json`."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    def error(self, where: str) -> FedRecError:
        """Return an exception to raise on this side.

        An error of fedrec's comes back as what it was; every other becomes an `EngineError`. The
        stack trace of the other side is its note.

        Args:
            where: What was being done, such as ``node 3, train, round 7``.
        """
        kind = getattr(errors, self.kind, None)
        restored: FedRecError
        if isinstance(kind, type) and issubclass(kind, FedRecError):
            restored = kind.__new__(kind, self.message)
        else:
            restored = EngineError(f"{where}: {self.kind}: {self.message}".rstrip(": "))
        restored.add_note(f"({where}) in another process:\n{self.traceback.rstrip()}")
        return restored
