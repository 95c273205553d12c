"""Pictures reach the items by the name of the file, and faults name the item."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedrec.errors import DataError
from fedrec.features import PictureEncoder
from fedrec.features.batches import Batch, EncodeBatch
from fedrec.types import FloatArray
from tests.planted import catalogue_of

ITEMS = catalogue_of(4)
COLOURS = {"0": (250, 0, 0), "2": (0, 250, 0), "3": (10, 20, 30), "9": (0, 0, 250)}


class MeanColour(PictureEncoder):
    """The mean of red, green and blue."""

    def weights(self) -> str:
        return ""

    def load(self) -> EncodeBatch:
        def encode(batch: Batch) -> tuple[FloatArray, int]:
            return np.stack([self.decoded(*each).mean((0, 1)) for each in batch]), 0

        return encode


def picture(colour: tuple[int, int, int], form: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (6, 9), colour).save(written, form)
    return written.getvalue()


FILES = {f"{name}.png": picture(colour, "PNG") for name, colour in COLOURS.items()}


def stored(path: Path, files: Mapping[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["pictures.zip", "pictures"])
@pytest.mark.parametrize("within", ["", "deep/er/"])
def test_pictures_are_found_by_raw_id(tmp_path: Path, name: str, within: str) -> None:
    files = {f"{within}{each}": content for each, content in FILES.items()}
    path = stored(tmp_path / name, {**files, "__MACOSX/._0.png": b"x", "note.txt": b"x"})
    encoder = MeanColour(path=path, size=8)
    result = encoder.encode(ITEMS, lambda *_: None)
    assert result.present.tolist() == [True, False, True, True]
    assert result.values.tolist() == [[250, 0, 0], [0, 0, 0], [0, 250, 0], [10, 20, 30]]
    assert result.notes == ("1 pictures are of no item of the data, and left out",)
    other = stored(tmp_path / "other.zip", FILES)
    assert MeanColour(path=other, size=8).fingerprint(ITEMS) == encoder.fingerprint(ITEMS)
    assert MeanColour(path=other, size=9).fingerprint(ITEMS) != encoder.fingerprint(ITEMS)
    changed = stored(tmp_path / "x.zip", {**FILES, "0.png": FILES["2.png"]})
    assert MeanColour(path=changed, size=8).fingerprint(ITEMS) != encoder.fingerprint(ITEMS)


def test_pictures_of_other_modes_are_read_as_colours(tmp_path: Path) -> None:
    written = io.BytesIO()
    Image.new("L", (3, 3), 77).save(written, "PNG")
    palette = io.BytesIO()
    Image.new("RGB", (3, 3), (9, 8, 7)).convert("P").save(palette, "GIF")
    path = stored(tmp_path / "p", {"0.png": written.getvalue(), "1.gif": palette.getvalue()})
    assert MeanColour(path=path, size=4).encode(ITEMS, lambda *_: None).values[0].tolist() == [
        77,
        77,
        77,
    ]


@pytest.mark.parametrize(
    "content", [b"", b"text", FILES["2.png"][:45]], ids=["empty", "text", "cut"]
)
def test_a_picture_that_does_not_decode_names_its_item(tmp_path: Path, content: bytes) -> None:
    path = stored(tmp_path / "p.zip", {**FILES, "2.png": content})
    with pytest.raises(DataError, match=r"p\.zip: the picture of item '2' does not decode") as e:
        MeanColour(path=path).encode(ITEMS, lambda *_: None)
    assert "\n" not in str(e.value)


def test_what_is_wrong_with_the_pictures_is_said(tmp_path: Path) -> None:
    def fault(path: Path) -> str:
        with pytest.raises(DataError) as raised:
            MeanColour(path=path).fingerprint(ITEMS)
        return str(raised.value)

    two = stored(tmp_path / "two.zip", {**FILES, "0.jpg": picture((1, 2, 3), "JPEG")})
    assert "0.jpg and 0.png are of one item; remove one" in fault(two)
    others = stored(tmp_path / "others", {"tt0114709.png": FILES["0.png"]})
    assert "none of its 1 pictures, such as tt0114709.png, is named after an item, such as 0" in (
        fault(others)
    )
    assert "no such file or folder; set path" in fault(tmp_path / "none")
    (tmp_path / "text").write_text("text", encoding="utf-8")
    assert "expected a folder or a zip file of pictures" in fault(tmp_path / "text")
    damaged = stored(tmp_path / "damaged.zip", FILES)
    content = damaged.read_bytes()
    at = content.index(FILES["2.png"]) + 20
    damaged.write_bytes(content[:at] + b"\0\0\0\0" + content[at + 4 :])
    assert "Bad CRC-32 for file '2.png'" in fault(damaged)
