"""Fuzzes the decoders of fedrec.

    python -m tests.fuzz --inputs 1000000

Inputs are mutated from valid ones and from the kept corpus. Each target runs in a process of its
own, so that one that crashes or hangs is counted as a fault, and the rest goes on.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz.files import ROOT
from tests.fuzz.lines import Lines
from tests.fuzz.session import Tally
from tests.fuzz.targets import TARGETS, decoders
from tests.fuzz.worker import fuzzed


def main() -> None:
    """Fuzz, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=10_000, help="in all, dealt to the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", action="append", choices=[*TARGETS], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="for inputs that are kept")
    asked = parser.parse_args()
    names, tallies = asked.target or [*TARGETS], dict[str, Tally]()
    console = Console(highlight=False)
    for place, name in enumerate(names):
        n = asked.inputs // len(names) + (place < asked.inputs % len(names))
        tallies[name] = fuzzed(name, asked.seed, range(asked.first, asked.first + n), asked.out)
        console.print(f"{name}: {n:,} inputs in {tallies[name].seconds:.0f} s")
    console.print(_inputs(tallies), _lines(tallies), sep="\n")
    faults = [
        f"{name}: {n} × {what}" for name, t in tallies.items() for what, n in t.faults.items()
    ]
    console.print("\n".join(faults), soft_wrap=True)
    raise SystemExit(bool(faults))


def _inputs(tallies: Mapping[str, Tally]) -> Table:
    table = Table("target", "inputs", "a second", "read", "refused", "faults")
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    for name, tally in {**tallies, "all": total}.items():
        faults = tally.faults.total()
        refused = tally.inputs - tally.read - faults
        rate = tally.inputs / max(tally.seconds, 1e-9)
        numbers = tally.inputs, round(rate), tally.read, refused, faults
        table.add_row(name, *(f"{number:,}" for number in numbers))
    return table


def _lines(tallies: Mapping[str, Tally]) -> Table:
    table = Table("decoder", "lines", "reached", "not reached")
    reached = {line for tally in tallies.values() for line in tally.reached}
    everything = Lines(decoders()).all
    for file in sorted({file for file, _ in everything}):
        lines = {number for name, number in everything if name == file}
        missed = sorted(number for number in lines if (file, number) not in reached)
        share = f"{1 - len(missed) / len(lines):.1%}"
        name = Path(file).relative_to(ROOT).as_posix()
        table.add_row(name, str(len(lines)), share, " ".join(map(str, missed)))
    share = f"{len(reached) / len(everything):.1%}"
    table.add_row("all", str(len(everything)), share, str(len(everything) - len(reached)))
    return table


if __name__ == "__main__":
    main()
