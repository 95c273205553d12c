"""The durable private state of a node's clients: memory-mapped arrays, staged and then committed.

A round's new values are *staged* in a file of their own. Only when a later message says that the
server applied the round are they *committed* to the arrays. So a round that is repeated starts
from the same state, and a process that dies in the middle leaves a state that can be put right.

Each array has a checksum: a sum over its rows, so that a round updates it by the rows that it
changed. The checksum of what is staged is known before it is committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import numpy as np

from fedrec.errors import ProtocolError, RunFolderError
from fedrec.storage.files import (
    RESTORE,
    full_disk_named,
    read_arrays,
    write_arrays,
    write_bytes,
)
from fedrec.training.task import initial_local
from fedrec.types import FloatArray, IntArray, ParamSpec

__all__ = ["StateStore"]

_STAGED = "staged@{round}@{group}.safetensors"
_COMMITTED = "committed.json"
_ROUND, _SUMS = "round", "checksums"
_MODULUS = 2**64


class StateStore:
    """Private parameters of some clients, in a folder that belongs to their node.

    Args:
        folder: Where the arrays lie; `settle` makes it at the beginning of a run.
        specs: The private parameters and the state of their optimizer.
        owners: Per ``user``, ``client`` and ``row``: int64, the ids of the owners in the order in
            which the arrays hold them.
        seed: The run's seed, for initial values.

    Raises:
        RunFolderError: If a file is missing or cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        specs: Mapping[str, ParamSpec],
        owners: Mapping[str, IntArray],
        seed: int,
    ) -> None:
        self._folder = folder
        self._specs = specs
        self._owners = owners
        self._seed = seed
        self._arrays: dict[str, FloatArray] = {}
        if (folder / _COMMITTED).exists():
            self._open()

    def get(self, at: Mapping[str, IntArray]) -> dict[str, FloatArray]:
        """Return committed values.

        Args:
            at: Per ``user``, ``client`` and ``row``, the positions wanted.

        Returns:
            Per name, float32 [n, *shape], a copy.
        """
        return {
            name: np.asarray(self._arrays[name][at[spec.axis or ""]])
            for name, spec in self._specs.items()
        }

    def stage(
        self,
        round: int,
        at: Mapping[str, IntArray],
        values: Mapping[str, FloatArray],
        group: int = 0,
    ) -> int:
        """Keep a round's values beside the committed ones; replaces what the group had staged.

        Args:
            round: The round.
            at: Positions, as for `get`.
            values: Per name, [n, *shape].
            group: Of the strategy; the groups of a round are staged one by one.

        Returns:
            What the checksum of the state changes by, once the values are committed.
        """
        content: dict[str, FloatArray] = {f"at.{per}": where for per, where in at.items()}
        changes = {}
        for name, value in values.items():
            where = at[self._specs[name].axis or ""]
            staged = np.asarray(value, self._specs[name].dtype, order="C")
            content[f"value.{name}"] = staged
            old = _checksum(name, where, self._arrays[name][where])
            changes[name] = (_checksum(name, where, staged) - old) % _MODULUS
        path = self._folder / _STAGED.format(round=round, group=group)
        write_arrays(path, content, {_SUMS: json.dumps(changes)}, durable=False)
        return sum(changes.values()) % _MODULUS

    def settle(self, committed: int, current: int | None = None) -> None:
        """Commit what is staged if the server applied that round; drop it otherwise.

        Args:
            committed: The last round that the server applied.
            current: The round under way, whose other groups may be staged already.

        Raises:
            ProtocolError: If a round is missing between the state and the server.
            RunFolderError: If a file is damaged.
        """
        self._make(committed)
        last, sums = self._read_committed()
        applied = last
        staged = self._staged()
        for path, round in staged.items():
            # What is of the last round was committed by a process that died before it removed it.
            if last < round <= committed:
                content, about = read_arrays(path)
                for name, spec in self._specs.items():
                    self._arrays[name][content[f"at.{spec.axis}"]] = content[f"value.{name}"]
                for name, change in json.loads(about[_SUMS]).items():
                    sums[name] = (sums[name] + change) % _MODULUS
                applied = max(applied, round)
        if applied > last:
            # Files go after this: a process that dies before does the same again.
            self._write_committed(applied, sums)
        for path, round in staged.items():
            if round <= committed or round != current:
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
        self._make(committed)
        last, sums = self._read_committed()
        found = {
            name: _checksum(name, np.arange(len(array)), array)
            for name, array in self._arrays.items()
        }
        applied = last
        for path, round in self._staged().items():
            if not last < round <= committed:
                continue
            content, about = read_arrays(path)
            changes = json.loads(about[_SUMS])
            applied = round
            for name, spec in self._specs.items():
                # The arrays may hold some of the staged rows already.
                where = content[f"at.{spec.axis}"]
                found[name] += _checksum(name, where, content[f"value.{name}"])
                found[name] -= _checksum(name, where, self._arrays[name][where])
                sums[name] += changes[name]
        for name, checksum in found.items():
            if (checksum - sums[name]) % _MODULUS:
                raise self._damaged(name, "its checksum does not match")
        return applied, sum(sums.values()) % _MODULUS

    @property
    def committed(self) -> int:
        """The last round that is in the arrays and changed these clients."""
        return self._read_committed()[0]

    def _make(self, committed: int) -> None:
        """Make the arrays, with their initial values, if they are absent and no round was run."""
        if (self._folder / _COMMITTED).exists():
            return
        if self._specs and committed > 0:
            raise RunFolderError(
                f"{self._folder}: the private state of this node's clients is missing; put the "
                "folder back from a copy, or run again with --overwrite"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        sums = {}
        for name, spec in self._specs.items():
            values = initial_local(self._seed, name, spec, self._owners[spec.axis or ""])
            with full_disk_named(self._path(name)):
                np.save(self._path(name), values)
            sums[name] = _checksum(name, np.arange(len(values)), values)
        self._write_committed(0, sums)
        self._open()

    def _open(self) -> None:
        self._arrays = {name: self._map(name) for name in self._specs}

    def _staged(self) -> dict[Path, int]:
        """Return the round of each file that is staged, earlier rounds first."""
        paths = self._folder.glob(_STAGED.format(round="*", group="*"))
        rounds = {path: int(path.name.split("@")[1]) for path in paths}
        return dict(sorted(rounds.items(), key=lambda pair: pair[1]))

    def _map(self, name: str) -> FloatArray:
        spec = self._specs[name]
        shape = (len(self._owners[spec.axis or ""]), *spec.shape)
        try:
            # Opened for writing at once, a file that was cut off would be filled up with zeros.
            np.load(self._path(name), mmap_mode="r", allow_pickle=False)
            array: FloatArray = np.load(self._path(name), mmap_mode="r+", allow_pickle=False)
        except FileNotFoundError:
            raise RunFolderError(f"{self._path(name)}: is missing; {RESTORE}") from None
        except Exception as error:  # numpy parses the header of a damaged file as Python
            raise self._damaged(name, " ".join(str(error).split())) from error
        if array.shape != shape or array.dtype != spec.dtype:
            found = f"{array.dtype} {list(array.shape)}"
            expected = f"{spec.dtype} {list(shape)}"
            raise self._damaged(name, f"holds {found}, expected {expected}")
        return array

    def _damaged(self, name: str, why: str) -> RunFolderError:
        return RunFolderError(f"{self._path(name)}: is damaged ({why}); {RESTORE}")

    def _read_committed(self) -> tuple[int, dict[str, int]]:
        path = self._folder / _COMMITTED
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            sums = {name: int(about[_SUMS][name]) for name in self._specs}
            return int(about[_ROUND]), sums
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path}: is damaged or cannot be read; {RESTORE}") from error

    def _write_committed(self, round: int, sums: Mapping[str, int]) -> None:
        text = json.dumps({_ROUND: round, _SUMS: sums})
        write_bytes(self._folder / _COMMITTED, text.encode(), durable=False)

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
