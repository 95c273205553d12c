"""The durable private state of a node's clients: memory-mapped arrays, staged and then committed.

A round's new values are *staged* in a file of their own. Only when a later message says that the
server applied the round are they *committed* to the arrays. So a round that is repeated starts
from the same state, and a process that dies in the middle leaves a state that can be put right.

Each array has a checksum: a sum over its rows, so that a round updates it by the rows that it
changed. The checksum of what is staged is known before it is committed.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np

from fedrec.errors import ProtocolError, RunFolderError
from fedrec.flower.records import CHECKSUMS
from fedrec.storage.files import (
    RESTORE,
    check_regular,
    full_disk_named,
    read_arrays,
    write_arrays,
    write_bytes,
)
from fedrec.types import FloatArray, IntArray, ParamSpec

_COMMITTED = "committed.json"
_ROUND, _SUMS = "round", "checksums"
_VALUES = 2**22
"""Values that are drawn or read at once, which bounds the memory."""
_MAPPED_BYTES = 2**26
"""A larger array is mapped anew after each use, or what was read of it would stay in memory."""


class StateStore:
    """Private parameters of some clients, in a folder that belongs to their node.

    Args:
        folder: Where the arrays lie; `settle` makes it at the beginning of a run.
        specs: The private parameters and the state of their optimizer.
        owners: Per axis: int64, the ids of the owners in the order in which the arrays hold them.
        initial: From the name of a parameter and the ids of owners, int64 [n], to their first
            values, [n, *shape].
    """

    def __init__(
        self,
        folder: Path,
        specs: Mapping[str, ParamSpec],
        owners: Mapping[str, IntArray],
        initial: Callable[[str, IntArray], FloatArray],
    ) -> None:
        self._folder = folder
        self._specs = specs
        self._owners = owners
        self._initial = initial
        self._mapped: dict[str, FloatArray] = {}

    def get(
        self, at: Mapping[str, IntArray], names: Iterable[str] | None = None
    ) -> dict[str, FloatArray]:
        """Return a copy of committed values: per name, [n, *shape].

        Args:
            at: Per axis, the positions wanted.
            names: Of the parameters; None: all.

        Raises:
            RunFolderError: If a file is missing or damaged.
        """
        axes = {n: self._specs[n].axis or "" for n in (self._specs if names is None else names)}
        return {name: self._array(name)[at[axis]] for name, axis in axes.items()}

    def stage(
        self,
        round: int,
        at: Mapping[str, IntArray],
        values: Mapping[str, FloatArray],
        cut: str = "0",
    ) -> int:
        """Keep a round's values beside the committed ones.

        Args:
            round: The round.
            at: Positions, as for `get`.
            values: Per name, [n, *shape].
            cut: Names these clients among the round's, which are staged one cut after the other.

        Returns:
            What the checksum of the state changes by, once the values are committed.
        """
        content: dict[str, FloatArray] = {f"at.{axis}": rows for axis, rows in at.items()}
        for name, spec in self._specs.items():
            content[f"value.{name}"] = np.asarray(values[name], spec.dtype, order="C")
        changes = self._changes(content)
        path = self._folder / f"staged@{round}@{cut}.safetensors"
        write_arrays(path, content, {_SUMS: json.dumps(changes)}, durable=False)
        return sum(changes.values()) % CHECKSUMS

    def settle(self, committed: int) -> None:
        """Commit what is staged if the server applied that round; drop it otherwise.

        Args:
            committed: The last round that the server applied.

        Raises:
            ProtocolError: If a round is missing between the state and the server.
            RunFolderError: If a file is damaged.
        """
        last, sums = self._mark(committed)
        applied = last
        for round, content, changes in self._applied(last, committed):
            for name, spec in self._specs.items():
                self._array(name)[content[f"at.{spec.axis}"]] = content[f"value.{name}"]
                sums[name] = (sums[name] + changes[name]) % CHECKSUMS
            applied = round
        if applied > last:
            # Files go after this: a process that dies before does the same again.
            self._write_mark(applied, sums)
        for path, _ in self._staged():
            path.unlink()
        if applied > committed:
            raise ProtocolError(
                f"{self._folder}: the private state is of round {applied}, the server's of round "
                f"{committed}; start the run in a new folder"
            )

    def verify(self, committed: int) -> tuple[int, int]:
        """Compare the arrays with their checksums.

        Args:
            committed: The last round that the server applied.

        Returns:
            The last round that changed the state, and the checksum of the state after it; as they
            are once what is staged is committed.

        Raises:
            RunFolderError: Names the file that is damaged.
        """
        last, expected = self._mark(committed)
        actual = {
            name: sum(_checksum(name, rows, self._array(name)[rows]) for rows in self._cuts(name))
            for name in self._specs
        }
        applied = last
        for round, content, changes in self._applied(last, committed):
            applied = round
            # The arrays may hold some of the staged rows already.
            for name, change in self._changes(content).items():
                actual[name] += change
                expected[name] += changes[name]
        for name, checksum in actual.items():
            if (checksum - expected[name]) % CHECKSUMS:
                raise self._damaged(name, "its checksum does not match")
        return applied, sum(expected.values()) % CHECKSUMS

    def _mark(self, committed: int) -> tuple[int, dict[str, int]]:
        """Return the round of the arrays and their checksums; make them if no round was run."""
        path = self._folder / _COMMITTED
        check_regular(path)
        if not path.exists():
            if self._specs and committed > 0:
                raise RunFolderError(
                    f"{self._folder}: the private state of this node's clients is missing; put the "
                    "folder back from a copy, or run again with --overwrite"
                )
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write_mark(0, {name: self._write_initial(name) for name in self._specs})
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            return int(about[_ROUND]), {name: int(about[_SUMS][name]) for name in self._specs}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path}: is damaged or cannot be read; {RESTORE}") from error

    def _write_mark(self, round: int, sums: Mapping[str, int]) -> None:
        text = json.dumps({_ROUND: round, _SUMS: sums})
        write_bytes(self._folder / _COMMITTED, text.encode(), durable=False)

    def _write_initial(self, name: str) -> int:
        """Write the initial values of an array; return its checksum."""
        spec, checksum = self._specs[name], 0
        about = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(spec.dtype)),
            "fortran_order": False,
            "shape": self._shape(name),
        }
        with full_disk_named(self._path(name)), self._path(name).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, about)
            for rows in self._cuts(name):
                values = self._initial(name, self._owners[spec.axis or ""][rows])
                checksum += _checksum(name, rows, values)
                file.write(np.ascontiguousarray(values).tobytes())
        return checksum % CHECKSUMS

    def _shape(self, name: str) -> tuple[int, ...]:
        spec = self._specs[name]
        return len(self._owners[spec.axis or ""]), *spec.shape

    def _cuts(self, name: str) -> list[IntArray]:
        """Cut the rows of an array so that the values of each cut are bounded."""
        n_rows, *shape = self._shape(name)
        step = max(_VALUES // max(prod(shape), 1), 1)
        return [np.arange(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]

    def _changes(self, content: Mapping[str, FloatArray]) -> dict[str, int]:
        """Return what the checksum of each array changes by if it takes what is staged."""
        changes = {}
        for name, spec in self._specs.items():
            at, values = content[f"at.{spec.axis}"], content[f"value.{name}"]
            old = _checksum(name, at, self._array(name)[at])
            changes[name] = (_checksum(name, at, values) - old) % CHECKSUMS
        return changes

    def _staged(self) -> list[tuple[Path, int]]:
        """Return the files that are staged, and the round of each, earlier rounds first."""
        paths = self._folder.glob("staged@*@*.safetensors")
        return sorted(((p, int(p.name.split("@")[1])) for p in paths), key=lambda pair: pair[1])

    def _applied(
        self, last: int, committed: int
    ) -> Iterator[tuple[int, dict[str, FloatArray], dict[str, int]]]:
        """Yield round, content and change of the checksums of what the server has applied.

        What is of the last round was committed by a process that died before it removed it.
        """
        for path, round in self._staged():
            if last < round <= committed:
                content, about = read_arrays(path)
                yield round, content, json.loads(about[_SUMS])

    def _array(self, name: str) -> FloatArray:
        """Map an array; a large one for one use, or what was read of it would stay in memory."""
        if name in self._mapped:
            return self._mapped[name]
        path = self._path(name)
        check_regular(path)
        try:
            # Opened for writing at once, a file that was cut off would be filled up with zeros.
            np.load(path, mmap_mode="r", allow_pickle=False)
            array = np.asarray(np.load(path, mmap_mode="r+", allow_pickle=False))
        except FileNotFoundError:
            raise RunFolderError(f"{path}: is missing; {RESTORE}") from None
        except Exception as error:  # numpy parses the header of a damaged file as Python
            raise self._damaged(name, "it is cut off, or not an array of numbers") from error
        if array.shape != self._shape(name) or array.dtype != np.dtype(self._specs[name].dtype):
            raise self._damaged(name, f"its array is {array.dtype} {list(array.shape)}")
        if array.nbytes <= _MAPPED_BYTES:
            self._mapped[name] = array
        return array

    def _damaged(self, name: str, why: str) -> RunFolderError:
        return RunFolderError(f"{self._path(name)}: is damaged ({why}); {RESTORE}")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '.')}.npy"


def _checksum(name: str, at: IntArray, values: FloatArray) -> int:
    """Return the sum, modulo 2**64, of a hash of each row with its name and position.

    Args:
        name: Of the array.
        at: int64 [n], the positions of the rows.
        values: [n, *shape], the rows, of 4 bytes each.
    """
    rows = np.ascontiguousarray(values).reshape(len(at), int(np.prod(values.shape[1:])))
    words = rows.view(np.uint64 if rows.shape[1] % 2 == 0 else np.uint32)
    # Odd factors: a bit that flips in one word always changes the sum of its row.
    columns = np.arange(1, words.shape[1] + 1, dtype=np.uint64)
    factors = columns * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    mixed: FloatArray = np.asarray(np.matmul(words, factors), np.uint64)
    mixed += (at.astype(np.uint64) + np.uint64(crc32(name.encode()) << 32)) * np.uint64(
        0xD1342543DE82EF95
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return int((mixed ^ (mixed >> np.uint64(31))).sum(dtype=np.uint64))
