"""Sentence vectors without a network: the mean of the vectors of a text's tokens."""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedrec.errors import DataError, require
from fedrec.features.batches import Batch, EncodeBatch, TextEncoder
from fedrec.storage.pretrained import Packaged, hash_of
from fedrec.types import FloatArray


class TokenTable(TextEncoder):
    """Encodes a text as the mean of the vectors of its tokens, in a table that is given.

    Without paths, the table is wordllama's: 32,000 tokens, 256 numbers, distilled from the token
    tables of large language models; see its licence note. It takes no model to run.

    Args:
        table: a ``.safetensors`` file with one array, a row for each token.
        tokenizer: a ``tokenizer.json`` of Hugging Face's tokenizers.
    """

    at_once: ClassVar[int] = 256
    packaged: ClassVar[Packaged] = Packaged(
        install="wordllama==0.4.0.post1",
        module="wordllama",
        files={
            "weights/l2_supercat_256.safetensors": (
                "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
            ),
            "tokenizers/l2_supercat_tokenizer_config.json": (
                "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"
            ),
        },
    )

    table: Path | None = None
    tokenizer: Path | None = None

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if (self.table is None) != (self.tokenizer is None):
            raise ValueError("table: goes with tokenizer; give both, or none for wordllama's")
        return self

    def is_here(self) -> bool:
        """Return whether the files exist."""
        return self.packaged.is_here() if self.table is None else super().is_here()

    def weights(self) -> str:
        """Return a hash of the table and the tokenizer."""
        if self.table is None:
            return self.packaged.verify()
        return hash_of(self._files())

    def load(self) -> EncodeBatch:
        """Return the function that encodes texts."""
        require("tokenizers", "which reads a tokenizer,", "text")
        from tokenizers import Tokenizer

        table, path = self._files()
        try:
            (rows,) = load_file(table).values()
            width = rows.reshape(len(rows), -1).shape[1]
            tokenizer = Tokenizer.from_file(str(path))
        except (SafetensorError, ValueError, OSError) as error:
            raise DataError(f"{table}: expected one array with a row for each token") from error
        except Exception as error:  # what tokenizers raises has no other class
            raise DataError(f"{path}: is no tokenizer: {error}") from error
        if tokenizer.get_vocab_size() > len(rows):
            raise DataError(
                f"{table}: has {len(rows):,} rows for {tokenizer.get_vocab_size():,} tokens of "
                f"{path}; expected a row for each"
            )
        vectors = rows.astype(np.float32)

        def encode(batch: Batch) -> tuple[FloatArray, int]:
            texts = [text for _, text in batch]
            means = np.zeros((len(texts), width), np.float32)
            for row, each in enumerate(tokenizer.encode_batch(texts, add_special_tokens=False)):
                if each.ids:
                    means[row] = vectors[each.ids].mean(axis=0)
            return means, 0

        return encode

    def _files(self) -> tuple[Path, Path]:
        """Return the paths of the table and of the tokenizer.

        Raises:
            DataError: If there are no such files.
        """
        if self.table is None or self.tokenizer is None:
            table, tokenizer = map(self.packaged.path, self.packaged.files)
        else:
            table, tokenizer = self.table, self.tokenizer
        for path in (table, tokenizer):
            if not path.is_file():
                raise DataError(f"{path}: no such file (from {Path.cwd()})")
        return table, tokenizer
