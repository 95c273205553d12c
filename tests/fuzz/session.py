"""Inputs by their number, what decoders make of them, and which of them are kept."""

import hashlib
import logging
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.files import ROOT, Files, pack, unpack
from tests.fuzz.lines import Line, Lines
from tests.fuzz.minimise import minimised
from tests.fuzz.mutate import mutated
from tests.fuzz.targets.base import Target

CORPUS = Path(__file__).parent / "corpus"
_KEPT_OF_A_FAULT = 2


@dataclass
class Tally:
    """What came of the inputs of a target.

    Args:
        inputs: How many there were.
        read: How many of them were read, and not refused.
        seconds: How long it took.
        faults: How often decoders failed in each way.
        reached: The lines that were reached.
    """

    inputs: int = 0
    read: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    reached: dict[Line, None] = field(default_factory=dict)

    def add(self, other: "Tally") -> None:
        """Add what came of other inputs."""
        self.inputs += other.inputs
        self.read += other.read
        self.seconds += other.seconds
        self.faults += other.faults
        self.reached |= other.reached


def corpus_of(target: Target) -> list[Files]:
    """Return the kept inputs of a target."""
    return [unpack(path.read_bytes()) for path in sorted((CORPUS / target.name).glob("*"))]


def quiet() -> None:
    """Let neither numpy nor fedrec warn of what is damaged."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


class Session:
    """Fuzzes a target, and keeps inputs that fail or reach lines that none before them reached.

    Args:
        target: The target.
        lines: Of the decoders.
        out: Where inputs are kept, in a folder of the target.
    """

    def __init__(self, target: Target, lines: Lines, out: Path) -> None:
        self.tally = Tally(reached=lines.reached)
        self._target, self._lines, self._out = target, lines, out / target.name
        self._started = [*target.seeds, *corpus_of(target)]

    def input(self, seed: int, number: int) -> Files:
        """Return the input of a number, which depends on nothing else but seeds and corpus."""
        rng = Random(f"{seed} {self._target.name} {number}")
        return mutated(rng.choice(self._started), self._started, rng)

    def fuzz(self, seed: int, numbers: range, begins: Callable[[int], None]) -> None:
        """Run the inputs of some numbers, after all from which they are mutated.

        Args:
            seed: Of the random numbers.
            numbers: Of the inputs.
            begins: Called with each number before its input runs.
        """
        for files in self._started:
            self._outcome(files, self._lines)
        began = time.perf_counter()
        for number in numbers:
            begins(number)
            self.attempt(self.input(seed, number))
        self.tally.seconds += time.perf_counter() - began

    def attempt(self, files: Files) -> None:
        """Run an input, count what comes of it, and keep it if it shows something new."""
        reached = len(self._lines.reached)
        outcome = self._outcome(files, self._lines)
        self.tally.inputs += 1
        self.tally.read += outcome == "read"
        if outcome not in ("read", "refused"):
            self.tally.faults[outcome] += 1
            if self.tally.faults[outcome] <= _KEPT_OF_A_FAULT:
                self._keep("faults", minimised(files, lambda f: self._outcome(f) == outcome))
        elif len(self._lines.reached) > reached:
            new = {*[*self._lines.reached][reached:]}
            self._keep("lines", minimised(files, lambda f: new <= self._reached(f)))

    def _outcome(self, files: Files, lines: Lines | None = None) -> str:
        """Return ``read``, ``refused``, or the error that is none that the decoder documents."""
        with (lines or self._lines.anew()).watches():
            try:
                return "read" if self._target.attempt(files) else "refused"
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return named(error)

    def _reached(self, files: Files) -> set[Line]:
        lines = self._lines.anew()
        self._outcome(files, lines)
        return {*lines.reached}

    def _keep(self, kind: str, files: Files) -> None:
        folder, content = self._out / kind, pack(files)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)


def named(error: BaseException) -> str:
    """Return the type of an error, the function of fedrec in which it arose, and what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    last = own[-1]
    place = f"{Path(last.filename).relative_to(ROOT).as_posix()}:{last.lineno} {last.name}"
    return f"{type(error).__name__} in {place}"
