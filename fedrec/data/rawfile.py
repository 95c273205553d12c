"""The bytes of a data file: unpacked, recognised by how they begin, and decoded."""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import importlib.util
import io
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from fedrec.errors import DataError

__all__ = ["content_hash", "read_bytes", "stem_of", "utf8_of"]

KINDS = (
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
AS_CSV = "save the table as csv"
UNPACK = "unpack it"
FOREIGN: Mapping[bytes, tuple[str, str]] = {
    b"PAR1": ("a Parquet file", "set data.name: parquet"),
    b"SQLite format 3\0": ("an SQLite database", AS_CSV),
    b"\xd0\xcf\x11\xe0": ("an old Office document, such as .xls", AS_CSV),
    b"%PDF": ("a PDF document", AS_CSV),
    b"\x89HDF": ("an HDF5 file", AS_CSV),
    b"ARROW1": ("an Arrow file", "save it as Parquet"),
    b"FEA1": ("a Feather file", "save it as Parquet"),
    b"ORC": ("an ORC file", "save it as Parquet"),
    b"Obj\x01": ("an Avro file", "save it as Parquet"),
    b"\x93NUMPY": ("a numpy array", "use fedrec.data.Frame.of"),
    b"\x80\x04": ("a pickle", "use fedrec.data.Frame.of"),
    b"\x80\x05": ("a pickle", "use fedrec.data.Frame.of"),
    b"\x89PNG": ("a picture", "set data.path to a table"),
    b"\xff\xd8\xff": ("a picture", "set data.path to a table"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"\x1f\x9d": ("a compressed file (.Z)", UNPACK),
    b"\x04\x22\x4d\x18": ("a compressed file (lz4)", UNPACK),
    b"version https://git-lfs": ("a Git LFS pointer and not the data", "run: git lfs pull"),
    b"<!doctype": ("a web page", "download the data itself"),
    b"<html": ("a web page", "download the data itself"),
    b"<?xml": ("an XML document", AS_CSV),
    b"{": ("a JSON document", AS_CSV),
    b"[{": ("a JSON document", AS_CSV),
}


def read_bytes(path: Path) -> bytes:
    """Read a file, and unpack it if it begins as gzip, bzip2, xz, zstd or zip does.

    Raises:
        DataError: If there is no such file, it is no regular file, cannot be read or unpacked, or
            is a zip archive of several files.
    """
    try:
        mode = path.stat().st_mode
        for applies, kind in KINDS:
            if applies(mode):
                raise DataError(f"{path}: {kind}; expected a file; set data.path to one")
        packed = path.read_bytes()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(
                f"{path}: is a link to {os.readlink(path)}, which does not exist; set data.path"
            ) from error
        raise DataError(
            f"{path}: no such file; set data.path (from {Path.cwd()}) or give the whole path"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}; set data.path to a file") from error
    try:
        return _unpack(path, packed)
    except (
        *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError),
        *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
    ) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: cannot be unpacked: {reason}; the file is damaged, fetch it again"
        ) from error


def stem_of(path: str | Path) -> str:
    """Return the name of a file without its ending and that of what it is packed with."""
    name = Path(Path(path).name)
    return Path(name.stem if name.suffix in PACKINGS else name).stem


def content_hash(path: Path) -> str:
    """Return the sha256 of a file's content, whatever it is packed with.

    Raises:
        DataError: As `read_bytes`.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


def utf8_of(path: Path, content: bytes, encoding: str) -> bytes:
    """Return a text as UTF-8 without byte-order mark.

    Args:
        path: For errors.
        content: As from `read_bytes`.
        encoding: Of the content, unless a byte-order mark says otherwise.

    Raises:
        DataError: If it is empty, no text, or not in that encoding.
    """
    _refuse_foreign(path, content)
    codec = next((codec for mark, codec in MARKS if content.startswith(mark)), encoding)
    try:
        name = codecs.lookup(codec).name
        if codec == encoding:
            _check_width(path, content, name, encoding)
        text = content if name == "utf-8" else content.decode(codec).encode()
        text.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: byte 0x{content[error.start]:02x} is not {codec}; "
            "set data.encoding, such as latin-1"
        ) from error
    except (ValueError, LookupError) as error:
        raise DataError(f"{path}: {error}; set data.encoding, such as latin-1") from error
    text = text.removeprefix(codecs.BOM_UTF8)
    if not text.strip():
        raise DataError(f"{path}: the file is empty; expected interactions")
    if b"\0" in text:
        line = text.count(b"\n", 0, text.index(b"\0")) + 1
        raise DataError(
            f"{path}: line {line}: has a NUL byte; expected text; the file is damaged, or set "
            "data.encoding"
        )
    return text


def _unpack(path: Path, packed: bytes) -> bytes:
    if packed.startswith(b"\x1f\x8b"):
        return gzip.decompress(packed)
    if packed.startswith(b"BZh"):
        return bz2.decompress(packed)
    if packed.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(packed)
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        if importlib.util.find_spec("pyarrow") is None:
            raise DataError(f"{path}: is packed with zstd; {UNPACK}")
        import pyarrow

        with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd") as stream:
            return bytes(stream.read())
    if packed.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            names = [each for each in archive.namelist() if not each.endswith("/")]
            if "[Content_Types].xml" in names or "mimetype" in names:
                raise DataError(f"{path}: is an Office document, such as Excel's; {AS_CSV}")
            if len(names) != 1:
                raise DataError(
                    f"{path}: is a zip archive of {len(names)} files; {UNPACK}, and set data.path "
                    "to one of them"
                )
            return archive.read(names[0])
    return packed


def _refuse_foreign(path: Path, content: bytes) -> None:
    start = content[:64].lstrip().lower()
    for mark, (kind, advice) in FOREIGN.items():
        if content.startswith(mark) or (mark[:1] in b"<{[" and start.startswith(mark)):
            raise DataError(f"{path}: is {kind}; expected text; {advice}")
    if content[257:262] == b"ustar":
        raise DataError(f"{path}: is a tar archive; expected text; {UNPACK}")


def _check_width(path: Path, content: bytes, name: str, encoding: str) -> None:
    """See that bytes without a mark have the width of their encoding."""
    start = content[:4096]
    wide = name.startswith(("utf-16", "utf-32"))
    if wide and b"\0" not in start:
        raise DataError(f"{path}: is not {encoding}; set data.encoding, such as utf-8")
    zeros = "".join("0" if start[at::4].count(0) * 8 > len(start) else "x" for at in range(4))
    guesses = {"x0x0": "utf-16-le", "0x0x": "utf-16-be", "x000": "utf-32-le", "000x": "utf-32-be"}
    guess = guesses.get(zeros)
    if guess and not wide:
        raise DataError(f"{path}: looks like {guess}, not {encoding}; set data.encoding: {guess}")
