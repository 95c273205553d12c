"""Texts are encoded as their definition says, each as if alone, and faults are named."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, DataError
from fedrec.features import Encoded, HuggingFace, TextEncoder, TokenTable
from tests.tiny_language_model import TITLES, save_tiny_model

N = len(TITLES) + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def items_of(*titles: str) -> Catalogue:
    ids = np.array([f"i{n}" for n in range(len(titles))], object)
    notes = np.array(["" if n % 2 else "a user" for n in range(len(titles))], object)
    return Catalogue(ids, {"title": np.array(titles, object), "note": notes})


ITEMS = items_of(*TITLES, "")


def encoded(encoder: TextEncoder, items: Catalogue = ITEMS) -> Encoded:
    told: list[tuple[int, int]] = []
    result = encoder.encode(items, lambda *progress: told.append(progress))
    assert told[0][0] == 0 and told[-1][0] == told[-1][1] == result.present.sum()
    return result


def tiny(folder: Path, *columns: str, **options: Any) -> HuggingFace:
    return HuggingFace.model_validate({"path": folder, "columns": columns or ("title",), **options})


def means(folder: Path, texts: list[str]) -> list[Any]:
    """The mean of the last hidden states of each text alone."""
    from transformers import AutoTokenizer, LlamaModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaModel.from_pretrained(folder)
    with torch.no_grad():
        inputs = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
        return [model(each).last_hidden_state[0].mean(0).numpy() for each in inputs]


def test_a_vector_is_the_mean_of_the_last_states(folder: Path) -> None:
    result = encoded(tiny(folder))
    np.testing.assert_allclose(result.values[:-1], means(folder, [*TITLES]), atol=1e-5)
    assert result.present.tolist() == [True] * len(TITLES) + [False]
    assert not result.values[-1].any() and result.notes == ()


def test_columns_are_joined_and_empty_ones_left_out(folder: Path) -> None:
    result = encoded(tiny(folder, "title", "note"))
    texts = [f"{TITLES[0]}. a user", TITLES[1]]
    np.testing.assert_allclose(result.values[:2], means(folder, texts), atol=1e-5)
    assert result.present[-1]


def test_texts_that_are_too_long_are_cut_and_counted(folder: Path) -> None:
    result = encoded(tiny(folder, max_tokens=3))
    assert result.notes == ("1 of 6 are longer than it takes, and cut",)
    short = " ".join(TITLES[2].split()[:2])
    np.testing.assert_allclose(result.values[2], means(folder, [short])[0], atol=1e-5)


def test_the_order_of_the_items_changes_nothing(folder: Path) -> None:
    order = np.random.default_rng(0).permutation(N)
    shuffled = Catalogue(
        ITEMS.item_ids[order], {name: c[order] for name, c in ITEMS.item_columns.items()}
    )
    for encoder in (tiny(folder), tiny(folder, "note", "title")):
        one, other = encoded(encoder).values, encoded(encoder, shuffled).values
        np.testing.assert_allclose(other, one[order], atol=1e-5)


def test_what_decides_a_vector_is_in_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    prints = {tiny(folder).fingerprint(ITEMS)}
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert {tiny(copy).fingerprint(ITEMS)} == prints
    assert {tiny(folder, pca=2, shuffle=1).fingerprint(ITEMS)} == prints
    values = load_file(copy / "model.safetensors")
    values["model.norm.weight"] += 1
    save_file(values, copy / "model.safetensors", {"format": "pt"})
    prints |= {tiny(copy).fingerprint(ITEMS), tiny(folder, max_tokens=3).fingerprint(ITEMS)}
    prints |= {tiny(folder, "note").fingerprint(ITEMS)}
    prints |= {tiny(folder).fingerprint(items_of(*TITLES, "more"))}
    assert len(prints) == 5


def test_what_is_wrong_with_columns_and_texts_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^columns: .* no column 'titel' \(did you mean 'title'"):
        tiny(folder, "titel").fingerprint(ITEMS)
    with pytest.raises(ConfigError, match=r"'title'; give a file of them with data\.items"):
        tiny(folder).fingerprint(Catalogue(ITEMS.item_ids))
    with pytest.raises(DataError, match=r"^no item has anything to encode"):
        tiny(folder).encode(items_of("", " "), lambda *_: None)
    with pytest.raises(ConfigError, match=r"^columns: "):
        HuggingFace.model_validate({"path": folder, "columns": []})


def test_what_is_wrong_with_the_folder_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: no such folder; set path"):
        tiny(tmp_path / "none").fingerprint(ITEMS)
    with pytest.raises(DataError, match=r"holds no config\.json; expected"):
        tiny(tmp_path).fingerprint(ITEMS)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    values = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"cannot be read as AutoModel of transformers") as raised:
        tiny(copy).load()
    assert "\n" not in str(raised.value)
    del values["model.norm.weight"]
    save_file(values, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"its weights lack norm\.weight$"):
        tiny(copy).load()


@pytest.fixture(scope="module")
def table(folder: Path) -> dict[str, Any]:
    rows = np.random.default_rng(3).normal(size=(512, 5)).astype(np.float16)
    save_file({"embedding.weight": rows}, folder / "table.safetensors")
    return {"table": folder / "table.safetensors", "tokenizer": folder / "tokenizer.json"}


def test_a_text_is_the_mean_of_its_tokens(table: dict[str, Any]) -> None:
    from tokenizers import Tokenizer

    rows = load_file(table["table"])["embedding.weight"].astype(np.float32)
    tokenizer = Tokenizer.from_file(str(table["tokenizer"]))
    result = encoded(TokenTable.model_validate({"columns": ["title"], **table}))
    for vector, title in zip(result.values, TITLES, strict=False):
        ids = tokenizer.encode(title, add_special_tokens=False).ids
        np.testing.assert_allclose(vector, rows[ids].mean(0), atol=1e-6)


def test_what_is_wrong_with_the_table_is_said(table: dict[str, Any], tmp_path: Path) -> None:
    def broken(**files: Path) -> TokenTable:
        return TokenTable.model_validate({"columns": ["title"], **table, **files})

    small = tmp_path / "small.safetensors"
    save_file({"rows": np.zeros((9, 2), np.float32)}, small)
    with pytest.raises(DataError, match=r"has 9 rows for \d+ tokens of .*tokenizer\.json"):
        broken(table=small).load()
    with pytest.raises(DataError, match=r"small\.safetensors: is no tokenizer"):
        broken(tokenizer=small).load()
    with pytest.raises(DataError, match=r"tokenizer\.json: expected one array with a row"):
        broken(table=table["tokenizer"]).load()
    with pytest.raises(DataError, match=r"none: no such file"):
        broken(table=tmp_path / "none").weights()
    with pytest.raises(ConfigError, match=r"^table: goes with tokenizer"):
        TokenTable.model_validate({"columns": ["title"], "table": small})
