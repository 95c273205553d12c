"""What is fuzzed: a decoder with valid inputs, and the errors that it documents."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import ClassVar, final

from fedrec.errors import FedRecError, ProtocolError
from tests.fuzz.files import Files
from tests.fuzz.limits import bounded, check_memory


class Target(ABC):
    """A decoder, and what must hold of what it returns.

    Args:
        folder: Where it may write; its own.

    Attributes:
        name: On the command line and in the corpus.
        decoders: The modules whose lines it is to reach; of each the names of its functions, or
            none for all of them.
        documented: What it may raise.
    """

    name: ClassVar[str]
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]]
    documented: ClassVar[tuple[type[FedRecError], ...]] = (ProtocolError,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def seeds(self) -> list[Files]:
        """Valid inputs."""
        seeds = [*self.valid()]
        for files in seeds:  # so that what is compiled for the first is not timed
            self.run(files)
        return seeds

    @abstractmethod
    def valid(self) -> Sequence[Files]:
        """Return valid inputs, made by the encoders of fedrec."""

    @abstractmethod
    def run(self, files: Files) -> None:
        """Decode an input, and check what holds of anything that is not refused."""

    @final
    def attempt(self, files: Files) -> bool:
        """Return whether an input is read, not refused, within the limits of time and memory.

        Raises:
            Exception: Whatever is a fault of the decoder.
        """
        try:
            with bounded():
                self.run(files)
        except self.documented as error:
            check_memory(error)
            assert "\n" not in str(error), f"the message has several lines: {error}"
            return False
        return True
