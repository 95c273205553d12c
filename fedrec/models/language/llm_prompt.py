"""A language model asked whether a user would take an item; its adapters are federated."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.data.history import latest
from fedrec.errors import ConfigError
from fedrec.models.base import Batch, Model
from fedrec.models.language.lora import Adapters, adapt
from fedrec.models.language.odds import YesNo
from fedrec.models.language.prompts import Prompts
from fedrec.models.language.template import Template
from fedrec.models.language.weights import Precision, folder_of, load
from fedrec.models.module import ModelParams
from fedrec.plugins import Defaults
from fedrec.ragged import Ragged
from fedrec.types import ParamSpec


class LLMPrompt(Model):
    r"""Score :math:`s_{ui} = \ell_{yes} - \ell_{no}` after a prompt of the history of u and item i.

    The logits :math:`\ell` are those of a language model's next token. Its weights are frozen, and
    the same for all; low-rank adapters are shared and trained, with ``train.loss`` of the scores,
    so on the last token alone. Histories never leave the client, and no item has an id.

    Departures from the paper: odds instead of probabilities, which orders by what the model
    prefers; one step per client and round; the base is small. A candidate costs a pass through the
    model: give ``evaluate.rerank``.

    Args:
        base: ``smollm2-135m`` or the folder of a causal language model of Hugging Face.
        precision: Of the frozen weights.
        template: What is asked.
        adapters: Where and how large they are, and what of them is trained.
        history: Entries of a prompt at most: the latest items, or random ones (the same in all
            rounds) where the data has no times.
        max_tokens: Of a prompt; the oldest entries are left out where there are more.

    Reference: bao2023tallrec.
    """

    reference: ClassVar[str] = "bao2023tallrec"
    execution = "loop"
    needs_times: ClassVar[bool] = False
    defaults: ClassVar[Defaults] = {
        "train": {
            "negatives": 1,
            "reduction": "mean",
            "optimizers": {"shared": {"name": "adamw", "lr": 0.001}},
        },
        "strategy": {"name": "fedavg"},
        "rounds": {"count": 10, "cohort_size": 32},
        "engine": {"chunk": 1},
    }

    base: str = "smollm2-135m"
    precision: Precision = "float32"
    template: Template = Template()
    adapters: Adapters = Adapters()
    history: int = Field(8, ge=1)
    max_tokens: int = Field(512, ge=1)

    @property
    def window(self) -> int:
        """``history`` + 1."""
        return self.history + 1

    def build(self, catalogue: Catalogue) -> nn.Module:
        """Load the base, add adapters and tokenise the items."""
        model, tokenizer = load(folder_of(self.base), self.precision)
        longest = getattr(model.config, "max_position_embeddings", self.max_tokens)
        if self.max_tokens > longest:
            raise ConfigError(
                f"model.max_tokens: {self.max_tokens} are more than the {longest} that "
                f"{self.base} takes; lower it"
            )
        adapt(model, self.adapters)
        return YesNo(model, Prompts.of(self.template, tokenizer, catalogue, self.max_tokens))

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """Return nothing beside the adapters."""
        return {}

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """float [q, 0]: items are their texts."""
        return torch.zeros(len(items), 0)

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """float [q]."""
        history, context = batch.history, batch.context
        assert history is not None and context is not None
        scores: Tensor = params.module(history.items, batch.users, context, batch.items)
        return scores

    def without_effect(self, run: Any) -> list[str]:
        """Say how many histories are cut, and how many items have no text."""
        lines, net = super().without_effect(run), run.task.network.module
        if net.prompts.untitled:
            lines.append(
                f"template.item: {net.prompts.untitled} of {run.split.n_items} items have an empty "
                "text; the model tells them apart by nothing"
            )
        shard = run.split.shard(np.arange(run.split.n_clients))
        at = latest(shard, self.history)
        histories = Ragged(at.offsets, shard.train.values[at.values])
        if cut := net.prompts.cut(histories):
            lines.append(
                f"max_tokens: {self.max_tokens} have room for fewer entries than history: "
                f"{self.history}; prompts of {cut} of {len(histories)} users leave out the oldest"
            )
        if run.experiment.evaluate.rerank is None:
            lines.append(
                f"base: every user is ranked by {run.split.n_items} passes through it; set "
                "evaluate.rerank"
            )
        return lines
