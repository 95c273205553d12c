"""What the server must know to go on after a round, in one file that is replaced as a whole.

A checkpoint is written when a round is *taken*: its updates are aggregated, its evaluation is not
yet done. Everything the server writes after it (the line of the run log, the best model, the
values per user) follows from it, so a run that goes on repeats that part and gets the same bits.
It survives the death of processes, not the loss of power.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedrec.errors import ConfigError, RunFolderError
from fedrec.plugins import Plugin, name_of
from fedrec.runs.folder import CHECKPOINT
from fedrec.runs.log import RoundRecord
from fedrec.storage.files import write_bytes
from fedrec.types import Params

__all__ = [
    "Checkpoint",
    "Origin",
    "pack",
    "read_checkpoint",
    "read_origin",
    "unpack",
    "write_checkpoint",
]

FORMAT = 1
ABOUT = "checkpoint"
KINDS = "biuf"
WIDEST = 8
KEPT = (
    "numpy arrays and numbers, None, truth values, whole numbers, floats, text, tuples, lists, "
    "mappings and frozen dataclasses that the strategy's module defines or imports"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run is made from; a run goes on only with the same.

    Args:
        config: the experiment, as values of JSON.
        data: hash of the prepared data.
        code: hash of fedrec's code.
        kernel: what trains the clients.
        nodes: among how many nodes the clients are dealt.
    """

    config: Mapping[str, Any]
    data: str
    code: str
    kernel: str
    nodes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The server after it has taken a round.

    Args:
        record: what is known of the round, without its evaluation.
        params: the global parameters.
        state: what the strategy remembers.
        evaluates: whether the round is evaluated.
        origin: what the run is made from.
        started: when the run was started first, ISO 8601.
        resumed: the rounds at which it was continued.
    """

    record: RoundRecord
    params: Params
    state: Any
    evaluates: bool
    origin: Origin
    started: str
    resumed: tuple[int, ...] = ()


def write_checkpoint(folder: Path, checkpoint: Checkpoint, strategy: Plugin) -> None:
    """Replace the checkpoint of a run folder.

    Args:
        folder: The run folder.
        checkpoint: What is written.
        strategy: Whose state it is.

    Raises:
        ConfigError: If the state holds what `pack` does not take.
    """
    state, arrays = pack(checkpoint.state, strategy)
    arrays |= {f"params/{name}": np.asarray(v, order="C") for name, v in checkpoint.params.items()}
    about = {
        "format": FORMAT,
        "record": checkpoint.record.model_dump(mode="json"),
        "state": state,
        "evaluates": checkpoint.evaluates,
        "origin": dataclasses.asdict(checkpoint.origin),
        "started": checkpoint.started,
        "resumed": checkpoint.resumed,
    }
    write_bytes(folder / CHECKPOINT, save(arrays, {ABOUT: json.dumps(about)}), durable=False)


def read_checkpoint(folder: Path, strategy: Plugin) -> Checkpoint | None:
    """The checkpoint of a run folder; None if no round was taken.

    Args:
        folder: The run folder.
        strategy: Whose state it is; must be of the kind that wrote it.

    Raises:
        RunFolderError: If it is damaged, or of another format.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    about, arrays = _read(path, with_arrays=True)
    with _told(path):
        return Checkpoint(
            record=RoundRecord.model_validate(about["record"]),
            params={
                name.removeprefix("params/"): array
                for name, array in arrays.items()
                if name.startswith("params/")
            },
            state=unpack(about["state"], arrays, strategy),
            evaluates=bool(about["evaluates"]),
            origin=Origin(**about["origin"]),
            started=str(about["started"]),
            resumed=tuple(about["resumed"]),
        )


def read_origin(folder: Path) -> Origin | None:
    """What the run in a folder is made from; None if no round was taken.

    Raises:
        RunFolderError: As `read_checkpoint`.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    about, _ = _read(path, with_arrays=False)
    with _told(path):
        return Origin(**about["origin"])


def pack(value: Any, strategy: Plugin) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Take a strategy's state apart into values of JSON and arrays.

    Args:
        value: The state: any nesting of numpy arrays and numbers, None, truth values, whole
            numbers, floats, text, tuples, lists, mappings, and frozen dataclasses that the module
            of the strategy (or of one of its bases) defines or imports.
        strategy: Whose state it is.

    Returns:
        What `unpack` takes. Floats keep every bit; a mapping comes back as a dict.

    Raises:
        ConfigError: Names the strategy and the part of its state that cannot be kept.
    """
    packer = _Packer(strategy)
    return packer.pack(value, "its state"), packer.arrays


def unpack(tree: Any, arrays: Mapping[str, NDArray[Any]], strategy: Plugin) -> Any:
    """The inverse of `pack`.

    Raises:
        KeyError: If an array is missing, or a dataclass is not one that the strategy knows.
    """
    known = _dataclasses_of(strategy)
    make: Mapping[str, Callable[[Any], Any]] = {
        "float": float.fromhex,
        "array": lambda name: arrays[name],
        "number": lambda name: arrays[name][()],
        "tuple": lambda items: tuple(walk(item) for item in items),
        "list": lambda items: [walk(item) for item in items],
        "mapping": lambda pairs: {walk(key): walk(item) for key, item in pairs},
    }

    def walk(tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        if "dataclass" in tree:
            fields = {name: walk(item) for name, item in tree["fields"].items()}
            return known[tree["dataclass"]](**fields)
        ((kind, content),) = tree.items()
        return make[kind](content)

    return walk(tree)


class _Packer:
    """The inverse of `unpack`, and the arrays that it has come upon.

    A class, because a function that calls itself from within another is a circle of references,
    and this is done in every round.
    """

    def __init__(self, strategy: Plugin) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self._strategy = strategy
        self._known = {cls: name for name, cls in _dataclasses_of(strategy).items()}

    def pack(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return {"float": value.hex()}
        if isinstance(value, np.generic | np.ndarray) and _plain(value.dtype):
            kind = "array" if isinstance(value, np.ndarray) else "number"
            return {kind: self._keep(np.asarray(value, order="C"))}
        if type(value) in (tuple, list):
            items = [self.pack(item, f"{where}[{at}]") for at, item in enumerate(value)]
            return {type(value).__name__: items}
        if type(value) in self._known:
            fields = {
                field.name: self.pack(getattr(value, field.name), f"{where}.{field.name}")
                for field in dataclasses.fields(value)
            }
            return {"dataclass": self._known[type(value)], "fields": fields}
        if isinstance(value, Mapping):
            pairs = [
                [
                    self.pack(key, f"key {key!r} of {where}"),
                    self.pack(item, f"{where}[{key!r}]"),
                ]
                for key, item in value.items()
            ]
            return {"mapping": pairs}
        raise ConfigError(
            f"strategy {name_of('strategies', self._strategy)}: {where} is of type {_said(value)}, "
            f"which a checkpoint cannot keep; it keeps {KEPT}"
        )

    def _keep(self, array: NDArray[Any]) -> str:
        name = f"state/{len(self.arrays)}"
        self.arrays[name] = array
        return name


def _dataclasses_of(strategy: Plugin) -> dict[str, type]:
    """The frozen dataclasses that are named in the modules of a strategy and its bases."""
    modules = [sys.modules.get(base.__module__) for base in type(strategy).__mro__]
    return {
        f"{value.__module__}:{value.__qualname__}": value
        for module in modules
        for value in list(vars(module).values() if module is not None else ())
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__dataclass_params__.frozen  # type: ignore[attr-defined]
        and all(field.init for field in dataclasses.fields(value))
    }


def _plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in KINDS and dtype.itemsize <= WIDEST and dtype.isnative


def _said(value: Any) -> str:
    kind = type(value)
    dtype = f" of {value.dtype}" if isinstance(value, np.ndarray) else ""
    return f"{kind.__module__}.{kind.__qualname__}{dtype}".removeprefix("builtins.")


def _read(path: Path, *, with_arrays: bool) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with _told(path), safe_open(path, framework="numpy") as file:
        about = json.loads((file.metadata() or {})[ABOUT])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, expected {FORMAT}")
        names: Sequence[str] = file.keys() if with_arrays else ()
        return about, {name: file.get_tensor(name) for name in names}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a checkpoint is read into one line for the user."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        line = " ".join(str(error).split())
        raise RunFolderError(
            f"{path}: cannot be read ({type(error).__name__}: {line}); "
            "start the run again with --overwrite"
        ) from error
