"""The durable local state of a node's clients: memory-mapped arrays, staged and then committed.

A round's new values are *staged* in a file of their own. Only when a later message says that the
server took the round are they *committed* to the arrays. So a round that is repeated starts from
the same state, and a process that dies in the middle leaves a state that can be put right.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from fedrec.errors import ProtocolError
from fedrec.training.task import initial_local
from fedrec.types import FloatArray, IntArray, ParamSpec

__all__ = ["StateStore"]

_STAGED = "staged@{group}.safetensors"
_COMMITTED = "committed.json"


class StateStore:
    """Local parameters of some clients, in a folder that belongs to their node.

    Args:
        folder: Where the arrays lie; made and filled with the initial values if absent.
        specs: The local parameters and the state of their optimiser.
        owners: Per ``user``, ``client`` and ``row``: int64, the ids of the owners in the order in
            which the arrays hold them.
        seed: The run's seed, for initial values.
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
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _COMMITTED).exists():
            for name, spec in specs.items():
                np.save(self._path(name), initial_local(seed, name, spec, owners[_per(spec)]))
            self._write_committed(0)
        self._arrays = {name: np.load(self._path(name), mmap_mode="r+") for name in specs}

    def get(self, at: Mapping[str, IntArray]) -> dict[str, FloatArray]:
        """Committed values.

        Args:
            at: Per ``user``, ``client`` and ``row``, the positions wanted.

        Returns:
            Per name, float32 [n, *shape], a copy.
        """
        return {
            name: np.asarray(self._arrays[name][at[_per(spec)]])
            for name, spec in self._specs.items()
        }

    def stage(
        self,
        round: int,
        at: Mapping[str, IntArray],
        values: Mapping[str, FloatArray],
        group: int = 0,
    ) -> None:
        """Keep a round's values beside the committed ones; replaces what the group had staged.

        Args:
            round: The round.
            at: Positions, as for `get`.
            values: Per name, [n, *shape].
            group: Of the strategy; the groups of a round are staged one by one.
        """
        content = {f"at.{per}": np.ascontiguousarray(where) for per, where in at.items()}
        content |= {
            f"value.{name}": np.ascontiguousarray(value, self._specs[name].dtype)
            for name, value in values.items()
        }
        data = save(content, metadata={"round": str(round)})
        name = _STAGED.format(group=group)
        temporary = self._folder / f".{name}.{os.getpid()}"
        temporary.write_bytes(data)
        temporary.replace(self._folder / name)

    def settle(self, committed: int, current: int | None = None) -> None:
        """Commit what is staged if the server took that round; drop it otherwise.

        Args:
            committed: The last round that the server took.
            current: The round under way, whose other groups may be staged already.

        Raises:
            ProtocolError: If a round is missing between the state and the server.
        """
        staged = {path: _round(path) for path in self._folder.glob(_STAGED.format(group="*"))}
        taken = [path for path, round in staged.items() if round <= committed]
        for path in taken:
            content = load_file(path)
            for name, spec in self._specs.items():
                self._arrays[name][content[f"at.{_per(spec)}"]] = content[f"value.{name}"]
        if taken:
            # Files go after this: a process that dies before does the same again.
            self._write_committed(max(staged[path] for path in taken))
        for path, round in staged.items():
            if round <= committed or round != current:
                path.unlink()
        if self.committed > committed:
            raise ProtocolError(
                f"{self._folder}: the local state is at round {self.committed}, the server at "
                f"{committed}; start the run in a new folder"
            )

    @property
    def committed(self) -> int:
        """The last round that is in the arrays and touched these clients."""
        return int(json.loads((self._folder / _COMMITTED).read_text())["round"])

    def _write_committed(self, round: int) -> None:
        temporary = self._folder / f".{_COMMITTED}.{os.getpid()}"
        temporary.write_text(json.dumps({"round": round}))
        temporary.replace(self._folder / _COMMITTED)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '.')}.npy"


def _round(staged: Path) -> int:
    with safe_open(staged, "numpy") as file:
        return int((file.metadata() or {})["round"])


def _per(spec: ParamSpec) -> str:
    return spec.per or "client"
