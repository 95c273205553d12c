"""The code of a run as files: a worker imports its machine's own if that is the same, else these.

A worker runs this before it can import fedrec: it travels by value, and imports the standard
library alone.
"""

import hashlib
import importlib
import os
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("fedrec", "clients", "server", "strategies")
INSTALLED = ".dist-info"
ENTRY_POINTS = "entry_points.txt"


def source_files(root: Path, packages: tuple[str, ...] = PACKAGES) -> dict[str, bytes]:
    """Return the sources of packages: content by path relative to ``root``, sorted."""
    paths = [path for name in packages for path in (root / name).rglob("*.py")]
    named = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: _content(named[name]) for name in sorted(named)}


def installed_files(packages: set[str]) -> dict[str, bytes]:
    """Return what is known of the distributions that bring plug-ins of some packages.

    Args:
        packages: Names of packages and modules, as they are imported.
    """
    files: dict[str, bytes] = {}
    for each in metadata.distributions():
        entries = [entry for entry in each.entry_points if entry.group.startswith("fedrec.")]
        if entries and {entry.module.partition(".")[0] for entry in entries} <= packages:
            folder = f"{each.metadata['Name'].replace('-', '_')}-{each.version}{INSTALLED}"
            for name in ("METADATA", ENTRY_POINTS):
                files[f"{folder}/{name}"] = (each.read_text(name) or "").encode()
    return files


def hash_of(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of names and contents."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()


def is_here(files: Mapping[str, bytes]) -> bool:
    """Return whether this process would import the same, without importing it."""
    importlib.invalidate_caches()
    by_top: dict[str, dict[str, bytes]] = {}
    for name, content in files.items():
        by_top.setdefault(name.partition("/")[0], {})[name] = content
    return all(_is_same(top, wanted) for top, wanted in by_top.items())


def unpack(files: Mapping[str, bytes]) -> Path:
    """Write the files into a folder of this user's, where they are not there yet; return it.

    The folder is named after their content, and they bear a fixed time: so machine code that was
    compiled of them is found again.
    """
    place = private_folder() / f"code-{hash_of(files)[:16]}"
    if place.is_dir() and all(_has(place, *each) for each in files.items()):
        os.utime(place)
        return place
    made = Path(tempfile.mkdtemp(dir=place.parent))
    for name, content in files.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (0, 0))
    try:
        made.rename(place)
    except OSError:  # another worker was faster, or what lies there is damaged
        return place if all(_has(place, *each) for each in files.items()) else made
    return place


def private_folder() -> Path:
    """Return the folder of this user's for what workers put on a machine while they run."""
    user = os.getuid() if hasattr(os, "getuid") else None
    folder = Path(tempfile.gettempdir()) / f"fedrec-{'user' if user is None else user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if user is not None and (folder.is_symlink() or about.st_uid != user or about.st_mode & 0o077):
        return Path(tempfile.mkdtemp(prefix="fedrec-"))  # others could put code there
    return folder


class Starter:
    """The actor: sees to path and environment before anything of fedrec is imported.

    Attributes:
        path: Where the driver finds modules.
        variables: Of the environment, which libraries read when they are imported; "" for none.
    """

    path: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}

    # Without arguments: to read any, Ray imports numpy.
    def __init__(self) -> None:
        os.environ.update(self.variables)
        for name in [name for name, value in self.variables.items() if not value]:
            del os.environ[name]
        sys.path[:] = [*self.path, *(entry for entry in sys.path if entry not in self.path)]
        self.worker: Any = None

    def prepare(self, settings: tuple[Any, ...], code: list[Any]) -> tuple[Any, Any]:
        """Make the worker.

        Args:
            settings: See `fedrec.flower.ray_worker.Worker`.
            code: The reference of the files, as the one element.

        Returns:
            What the worker says of itself, and None; or None, and its failure.
        """
        import traceback

        try:
            import ray

            files = ray.get(code[0])
            shipped = None if is_here(files) else unpack(files)
            if shipped is not None:
                sys.path.insert(0, str(shipped))
                importlib.invalidate_caches()
            from fedrec.flower.ray_worker import Worker

            self.worker = Worker(shipped, *settings)
            return self.worker.about(), None
        except Exception as error:
            return None, (type(error).__name__, str(error), traceback.format_exc())

    def handle(self, *request: Any) -> Any:
        """See `fedrec.flower.ray_worker.Worker.handle`."""
        return self.worker.handle(*request)

    def leave(self) -> None:
        """See `fedrec.flower.ray_worker.Worker.leave`."""
        if self.worker is not None:
            self.worker.leave()


def _content(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n")


def _has(root: Path, name: str, content: bytes) -> bool:
    path = root / name
    return path.is_file() and _content(path) == content


def _is_same(top: str, wanted: Mapping[str, bytes]) -> bool:
    """Return whether a package, a module or a distribution is as wanted."""
    if top.endswith(INSTALLED):
        name = top.removesuffix(INSTALLED).rpartition("-")[0]
        brought = [each.read_text(ENTRY_POINTS) or "" for each in metadata.distributions(name=name)]
        return brought[:1] == [wanted[f"{top}/{ENTRY_POINTS}"].decode()]
    spec = find_spec(top.removesuffix(".py"))
    if spec is None:
        return False
    places = [Path(place).parent for place in spec.submodule_search_locations or ()]
    root = next(iter(places), Path(spec.origin or "").parent)
    if top in PACKAGES:
        return source_files(root, (top,)) == wanted
    return all(_has(root, *each) for each in wanted.items())
