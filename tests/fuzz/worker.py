"""Fuzzing in a process of its own, so that one that crashes or hangs costs one input."""

import multiprocessing
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.lines import Lines
from tests.fuzz.session import Session, Tally, quiet
from tests.fuzz.targets import TARGETS, decoders

_PATIENCE = 60.0
"""Seconds without a new input after which a process hangs."""
_PROCESSES = multiprocessing.get_context("spawn")


def fuzzed(name: str, seed: int, numbers: range, out: Path) -> Tally:
    """Fuzz a target; after an input that ends or stops its process go on with the next.

    Args:
        name: Of the target.
        seed: Of the random numbers.
        numbers: Of the inputs.
        out: Where inputs are kept.

    Raises:
        RuntimeError: If the process ends before the first input.
    """
    total, first = Tally(), numbers.start
    while first < numbers.stop:
        current = _PROCESSES.Value("q", -1, lock=False)
        receiver, sender = _PROCESSES.Pipe(duplex=False)
        work = name, seed, range(first, numbers.stop), out, current, sender
        process = _PROCESSES.Process(target=_work, args=work)
        process.start()
        sender.close()
        before = -2
        while not receiver.poll(_PATIENCE) and current.value > before:
            before = current.value
        try:
            if not receiver.poll():
                process.kill()
            total.add(receiver.recv())
            first = numbers.stop
        except EOFError:
            process.join()
            if current.value < 0:
                raise RuntimeError(f"{name}: the process ends before the first input") from None
            what = f"input {current.value} ends or stops its process ({process.exitcode})"
            total.add(Tally(current.value + 1 - first, faults=Counter([what])))
            first = current.value + 1
    return total


def _work(
    name: str, seed: int, numbers: range, out: Path, current: Any, sender: Connection
) -> None:
    """Fuzz a target in this process, and send what came of it."""
    quiet()
    torch.set_num_threads(1)

    def begins(number: int) -> None:
        current.value = number

    with tempfile.TemporaryDirectory() as folder:
        session = Session(TARGETS[name](Path(folder)), Lines(decoders()), out)
        session.fuzz(seed, numbers, begins)
    sender.send(session.tally)
