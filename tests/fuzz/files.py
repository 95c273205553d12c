"""An input of a fuzzed decoder: files by name, and all of them as one file of the corpus.

A folder is its files; a message is each of its arrays as ``.npy``, and its text. So all inputs are
damaged, kept and minimised alike.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from safetensors.numpy import load

from fedrec.storage.files import CHECKSUM, write_arrays
from fedrec.types import FloatArray
from tests.fuzz.mutate_array import loaded, saved

Files: TypeAlias = Mapping[str, bytes]

ROOT = Path(__file__).parents[2]
"""The checkout."""

_LENGTH_BYTES, _LONGEST_NAME = 4, 100
_ARRAYS, _TEXTS = "arrays", "texts"


def pack(files: Files) -> bytes:
    """Return an input as one file: name and content of each file, each after its length."""
    fields = [field for name in sorted(files) for field in (name.encode(), files[name])]
    return b"".join(len(each).to_bytes(_LENGTH_BYTES, "little") + each for each in fields)


def unpack(content: bytes) -> dict[str, bytes]:
    """Invert `pack`; of other bytes, return what can be read of them."""
    fields = []
    while content:
        end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        fields.append(content[_LENGTH_BYTES:end])
        content = content[end:]
    pairs = zip(fields[::2], fields[1::2], strict=False)
    return {name.decode(errors="replace"): each for name, each in pairs}


def write_files(folder: Path, files: Files) -> None:
    """Make a folder anew with the files of an input; what is no name of a file is left out.

    ``FILE/arrays/NAME`` and ``FILE/texts/NAME`` are what a file of arrays holds, which gets a
    checksum that is right; ``FILE/`` is a folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arrays: dict[str, dict[str, FloatArray]] = {}
    texts: dict[str, dict[str, str]] = {}
    for path, content in files.items():
        name, slash, inside = path.partition("/")
        kind, _, key = inside.partition("/")
        if name in ("", ".", "..") or "\0" in name or len(name.encode()) > _LONGEST_NAME:
            continue
        if kind == _TEXTS:
            texts.setdefault(name, {})[key] = content.decode(errors="replace")
        elif kind == _ARRAYS:
            array = loaded(content)
            if array is not None and array.dtype.kind in "biufc":
                arrays.setdefault(name, {})[key] = array
        elif slash and not (folder / name).exists():
            (folder / name).mkdir()
        elif not (folder / name).is_dir():
            (folder / name).write_bytes(content)
    for name in {*arrays, *texts}:
        if not (folder / name).is_dir():
            write_arrays(folder / name, arrays.get(name, {}), texts.get(name, {}), durable=False)


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def opened(files: Files) -> dict[str, bytes]:
    """Return files with what each file of arrays among them holds in its place."""
    inside: dict[str, bytes] = {}
    for name, content in files.items():
        if not name.endswith(".safetensors"):
            inside[name] = content
            continue
        size = int.from_bytes(content[:8], "little")
        texts = json.loads(content[8 : 8 + size])["__metadata__"]
        texts.pop(CHECKSUM)
        inside |= {f"{name}/{_TEXTS}/{key}": text.encode() for key, text in texts.items()}
        inside |= {f"{name}/{_ARRAYS}/{key}": saved(array) for key, array in load(content).items()}
    return inside
