"""The files of a node in a run folder, of which a machine without that folder holds a copy.

So the run folder is complete at any time, and whoever else hosts the node goes on from there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from clients.place import NodePlace, name_of_node
from clients.state_store import STAGED
from fedrec.runs.folder import LOCAL
from fedrec.storage.files import write_bytes

Marks: TypeAlias = Mapping[str, tuple[int, int]]
"""What tells that a file was replaced, by its name."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a node has written while it answered a message.

    Args:
        staged: by name, the files of staged values.
        ranked: by name, the files of evaluated rounds that are new.
        names: of all files of evaluated rounds that there are now.
    """

    staged: Mapping[str, bytes]
    ranked: Mapping[str, bytes]
    names: frozenset[str]


class NodeFiles:
    """The files of a node in a run folder or in a copy: of its private state, and of evaluations.

    Args:
        place: The node's.
    """

    def __init__(self, place: NodePlace) -> None:
        self._out, self._state, self._local = place.state, place.folder, place.state / LOCAL
        self._name = name_of_node(place.partition)

    def read(self) -> dict[str, bytes]:
        """Return the content of all files, by path relative to the run folder."""
        paths = [*self._state.glob("[!.]*"), *self._ranked().values()]
        return {path.relative_to(self._out).as_posix(): path.read_bytes() for path in paths}

    def marks(self) -> Marks:
        """Return marks of the files of evaluated rounds, for `written`."""
        return {name: _mark(path) for name, path in self._ranked().items()}

    def written(self, before: Marks) -> Written:
        """Return what was written since marks were taken."""
        ranked = self._ranked()
        new = [path for name, path in ranked.items() if before.get(name) != _mark(path)]
        return Written(_read(self._state.glob(STAGED)), _read(new), frozenset(ranked))

    def take(self, written: Written) -> None:
        """Write what the copy has written, and remove what it has removed."""
        self._local.mkdir(exist_ok=True)
        for name, content in written.staged.items():
            write_bytes(self._state / Path(name).name, content, durable=False)
        for name, content in written.ranked.items():
            write_bytes(self._local / Path(name).name, content)
        for name, path in self._ranked().items():
            if name not in written.names:
                path.unlink()

    def _ranked(self) -> dict[str, Path]:
        """Return the files of evaluated rounds by name; a node of many clients has several each."""
        patterns = (f"{self._name}@*", f"{self._name}p*@*")
        return {path.name: path for each in patterns for path in self._local.glob(each)}


def put_down(files: Mapping[str, bytes], out: Path) -> None:
    """Write the files of `NodeFiles.read` into a folder that has none of the node's."""
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content, durable=False)


def _read(paths: Iterable[Path]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


def _mark(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_ino, about.st_mtime_ns
