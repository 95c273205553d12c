"""Small data files of every format for tests, and what reading them gives or says."""

import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fedrec.data import Csv, DataSet
from fedrec.errors import DataError
from fedrec.types import Interactions

COLUMNS = {"user": "user", "item": "item", "rating": "rating", "timestamp": "time"}
HEAD = "user,item,rating,time\n"
TEXT = HEAD + "".join(
    f"{u},i{u + i},{i % 5 + 1},{100 * u + i}\n" for u in range(4) for i in range(4)
)


def rows(data: Interactions) -> list[tuple[Any, ...]]:
    columns: list[Any] = [data.user_ids[data.users], data.item_ids[data.items]]
    columns += [each for each in (data.ratings, data.timestamps) if each is not None]
    return list(zip(*(each.tolist() for each in columns), strict=True))


def file(content: str | bytes, folder: Path | None = None, name: str = "log.csv") -> Path:
    path = (folder or Path(tempfile.mkdtemp())) / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def csv(content: str | bytes, **options: Any) -> Csv:
    return Csv.model_validate({"path": file(content), "columns": COLUMNS, **options})


def zipped(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def zstd(content: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return bytes(buffer.getvalue().to_pybytes())


def refusal(data: DataSet) -> str:
    with pytest.raises(DataError) as caught:
        data.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)
