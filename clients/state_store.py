"""The durable private state of a node's clients: memory-mapped arrays, staged and then committed.

The new values of a training request are *staged* in files of their own, under its ticket. Only
when a later message says that the server applied the request are they *committed* to the arrays.
So a request that is repeated starts from the same state, a late one changes nothing, and a process
that dies in the middle leaves a state that can be put right.

Each array has a checksum: a sum over its rows, so that a request updates it by the rows that it
changed. The checksum of what is staged is known before it is committed.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np
from pydantic_core import from_json

from fedrec.errors import ProtocolError, RunFolderError
from fedrec.flower.records import CHECKSUMS, PrivateState, Ticket
from fedrec.storage.files import (
    RESTORE,
    check_regular,
    full_disk_named,
    read_arrays,
    reading,
    write_arrays,
    write_bytes,
)
from fedrec.types import FloatArray, IntArray, ParamSpec

STAGED = "staged@*@*@*.safetensors"
"""The files of what is staged."""
_COMMITTED = "committed.json"
_VERSION, _APPLIED, _SUMS = "version", "applied", "checksums"
_THIS_VERSION = 2
_VALUES = 2**22
"""Values that are drawn or read at once, which bounds the memory."""
_MAPPED_BYTES = 2**26
"""A larger array is mapped anew after each use, or what was read of it would stay in memory."""


class StateStore:
    """Private parameters of some clients, in a folder that belongs to their node.

    Args:
        folder: Where the arrays lie; `commit` makes it at the beginning of a run.
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
        ticket: Ticket,
        at: Mapping[str, IntArray],
        values: Mapping[str, FloatArray],
        cut: str = "0",
    ) -> int:
        """Keep the values of a request beside the committed ones.

        Args:
            ticket: The request.
            at: Positions, as for `get`.
            values: Per name, [n, *shape].
            cut: Names these clients among the request's, which are staged one cut after the other.

        Returns:
            What the checksum of the state changes by, once the values are committed.
        """
        if not self._specs:
            return 0
        content: dict[str, FloatArray] = {f"at.{axis}": rows for axis, rows in at.items()}
        for name, spec in self._specs.items():
            content[f"value.{name}"] = np.asarray(values[name], spec.dtype, order="C")
        changes = self._changes(content)
        path = self._folder / f"staged@{ticket[0]}@{ticket[1]}@{cut}.safetensors"
        write_arrays(path, content, {_SUMS: json.dumps(changes)}, durable=False)
        return sum(changes.values()) % CHECKSUMS

    def commit(self, applied: Collection[Ticket]) -> None:
        """Commit what is staged of the requests that the server applied, each once.

        Args:
            applied: Those that were not committed before, or of the last time; at least the last
                one that the server applied to this node's clients.

        Raises:
            ProtocolError: If the state has what the server has not applied.
            RunFolderError: If values are missing, or a file is damaged.
        """
        if not self._specs:
            return
        committed, sums = self._mark(begun=bool(applied))
        if max(committed, default=(0, 0)) > max(applied, default=(0, 0)):
            raise ProtocolError(
                f"{self._folder}: the private state is of round {max(committed)[0]}, the server's "
                f"of round {max(applied, default=(0, 0))[0]}: the request is old, or the run was "
                "put back; start the run in a new folder"
            )
        fresh, staged = sorted({*applied} - {*committed}), self._staged()
        if not fresh:
            return
        for ticket in fresh:
            if ticket not in staged:
                raise RunFolderError(
                    f"{self._folder}: what this node's clients learnt in round {ticket[0]} is "
                    f"missing; {RESTORE}"
                )
            for path in staged[ticket]:
                content, changes = self._read_staged(path)
                for name, spec in self._specs.items():
                    self._array(name)[content[f"at.{spec.axis}"]] = content[f"value.{name}"]
                    sums[name] = (sums[name] + changes[name]) % CHECKSUMS
        # Files go after this: a process that dies before does the same again.
        self._write_mark(applied, sums)
        for ticket in fresh:
            self._remove(staged[ticket])

    def discard(self, pending: Collection[Ticket], before: Ticket) -> None:
        """Drop what is staged and was not applied.

        Args:
            pending: The requests whose values stay, as they may still be applied.
            before: The request that is being answered.

        Raises:
            ProtocolError: If a later request was answered already.
        """
        staged = self._staged()
        if any(ticket > before for ticket in staged):
            raise ProtocolError(
                f"{self._folder}: a request of round {before[0]} came again after a later one; "
                "it changes nothing"
            )
        for ticket in staged.keys() - {*pending}:
            self._remove(staged[ticket])

    def verify(self, begun: bool) -> PrivateState:
        """Compare the arrays with their checksums, and return what there is.

        Args:
            begun: Whether the run has completed a round.

        Raises:
            RunFolderError: Names the file that is damaged.
        """
        committed, expected = self._mark(begun)
        actual = {
            name: sum(_checksum(name, rows, self._array(name)[rows]) for rows in self._cuts(name))
            for name in self._specs
        }
        staged = {}
        for ticket, paths in self._staged().items():
            if ticket in committed:  # by a process that died before it removed the files
                continue
            staged[ticket] = 0
            for path in paths:
                content, changes = self._read_staged(path)
                for name, change in changes.items():
                    staged[ticket] += change
                    # The arrays may hold some of the staged rows already.
                    actual[name] += self._changes(content)[name] - change
        for name, checksum in actual.items():
            if (checksum - expected[name]) % CHECKSUMS:
                raise self._damaged(name, "its checksum does not match")
        totals = tuple((ticket, change % CHECKSUMS) for ticket, change in sorted(staged.items()))
        return PrivateState(tuple(sorted(committed)), sum(expected.values()) % CHECKSUMS, totals)

    def _mark(self, begun: bool) -> tuple[set[Ticket], dict[str, int]]:
        """Return the requests in the arrays and their checksums; make them if no round was run."""
        path = self._folder / _COMMITTED
        check_regular(path)
        if not path.exists():
            if self._specs and begun:
                raise RunFolderError(
                    f"{self._folder}: the private state of this node's clients is missing; put the "
                    "folder back from a copy, or run again with --overwrite"
                )
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write_mark((), {name: self._write_initial(name) for name in self._specs})
        with reading(path):
            about = dict(from_json(path.read_bytes()))
            if (version := about.get(_VERSION)) != _THIS_VERSION:
                raise RunFolderError(
                    f"{self._folder}: the private state is of version {version}, expected "
                    f"{_THIS_VERSION}; continue with the version of fedrec that wrote it, or run "
                    "again with --overwrite"
                )
            applied = {(round, attempt) for round, attempt in about[_APPLIED]}
            sums = {name: about[_SUMS][name] for name in self._specs}
            numbers = *(number for ticket in applied for number in ticket), *sums.values()
            if not all(type(number) is int for number in numbers):
                raise ValueError("it holds something else than whole numbers")
            return applied, sums

    def _write_mark(self, applied: Iterable[Ticket], sums: Mapping[str, int]) -> None:
        about = {_VERSION: _THIS_VERSION, _APPLIED: sorted(applied), _SUMS: sums}
        text = json.dumps(about)
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

    def _staged(self) -> dict[Ticket, list[Path]]:
        """Return the files that are staged, by request."""
        paths = defaultdict(list)
        for path in sorted(self._folder.glob(STAGED)):
            with reading(path):
                _, round, attempt, _ = path.name.split("@")
                paths[int(round), int(attempt)].append(path)
        return dict(paths)

    def _read_staged(self, path: Path) -> tuple[dict[str, FloatArray], dict[str, int]]:
        """Return what is staged in a file, and what it changes the checksum of each array by.

        Raises:
            RunFolderError: If it is damaged, or holds something else than rows of the arrays, as
                that of another version may.
        """
        content, about = read_arrays(path)
        with reading(path):
            changes = from_json(about[_SUMS])
            for name, spec in self._specs.items():
                at, values = content[f"at.{spec.axis}"], content[f"value.{name}"]
                n_rows, *shape = self._shape(name)
                fits = at.dtype == np.int64 and at.ndim == 1 and type(changes[name]) is int
                fits = fits and values.dtype == spec.dtype and values.shape == (len(at), *shape)
                if not fits or ((at < 0) | (at >= n_rows)).any():
                    raise ValueError(f"it holds something else than rows of '{name}'")
            return content, {name: changes[name] for name in self._specs}

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink()

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
