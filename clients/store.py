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
from fedrec.training.method import initial_local
from fedrec.types import FloatArray, IntArray, ParamSpec

__all__ = ["StateStore"]

_STAGED = "staged.safetensors"
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
        self, round: int, at: Mapping[str, IntArray], values: Mapping[str, FloatArray]
    ) -> None:
        """Keep a round's values beside the committed ones; replaces what was staged.

        Args:
            round: The round.
            at: Positions, as for `get`.
            values: Per name, float32 [n, *shape].
        """
        content = {f"at.{per}": np.ascontiguousarray(where) for per, where in at.items()}
        content |= {
            f"value.{name}": np.ascontiguousarray(value, np.float32)
            for name, value in values.items()
        }
        data = save(content, metadata={"round": str(round)})
        temporary = self._folder / f".{_STAGED}.{os.getpid()}"
        temporary.write_bytes(data)
        temporary.replace(self._folder / _STAGED)

    def settle(self, committed: int) -> None:
        """Commit what is staged if the server took that round; drop it otherwise.

        Args:
            committed: The last round that the server took.

        Raises:
            ProtocolError: If a round is missing between the state and the server.
        """
        staged = self._folder / _STAGED
        if staged.exists():
            with safe_open(staged, "numpy") as file:
                round = int((file.metadata() or {})["round"])
            if round <= committed:
                content = load_file(staged)
                for name, spec in self._specs.items():
                    self._arrays[name][content[f"at.{_per(spec)}"]] = content[f"value.{name}"]
                self._write_committed(round)
            staged.unlink()
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


def _per(spec: ParamSpec) -> str:
    return spec.per or "client"
