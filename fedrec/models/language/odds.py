"""The log odds of yes and no that a language model gives after a prompt."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from fedrec.compute.device import to_array
from fedrec.models.language.prompts import Prompts
from fedrec.types import IntArray

_TOGETHER = 32
"""Prompts that are computed at once where nothing is trained."""


class YesNo(nn.Module):
    r"""Score candidates after histories: :math:`s = \ell_{yes} - \ell_{no}` at the last token.

    It orders by the odds of the two words, whatever other words take of the probability.
    The part of the prompt before the candidate is computed once for all candidates of a history.

    Args:
        model: A causal language model of transformers.
        prompts: The template and the items as tokens.
    """

    def __init__(self, model: Any, prompts: Prompts) -> None:
        super().__init__()
        super().train(False)
        self.model, self.prompts = model, prompts
        # So that a model with other texts is known for another.
        self.register_buffer("tokens", torch.as_tensor(prompts.content()))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the base is frozen, so nothing in it is dropped."""
        return self

    def forward(self, histories: Tensor, users: Tensor, context: Tensor, items: Tensor) -> Tensor:
        """Return the score of each pair, float32 [q].

        Args:
            histories: int64 [u, h], the items of each user, oldest first.
            users: int64 [q], row of ``histories``.
            context: int64 [q], how many items of the history stand before the pair.
            items: int64 [q], the candidates.
        """
        past, wanted = to_array(histories), to_array(torch.stack([users, context], 1))
        # What is not trained needs no more than some rows at a time.
        size = len(wanted) if torch.is_grad_enabled() else _TOGETHER
        scores = []
        for start in range(0, len(wanted), size):
            block = slice(start, start + size)
            distinct, of = np.unique(wanted[block], axis=0, return_inverse=True)
            prefixes = [self.prompts.prefix(past[user, :n]) for user, n in distinct]
            suffixes = [self.prompts.suffix(item) for item in items[block].tolist()]
            scores.append(self.odds(prefixes, suffixes, of.reshape(-1)))
        return torch.cat(scores)

    def odds(
        self, prefixes: Sequence[IntArray], suffixes: Sequence[IntArray], of: IntArray
    ) -> Tensor:
        """Return the log odds after each prompt, float32 [q].

        Args:
            prefixes: Tokens, int64 [n] each, at least one.
            suffixes: Tokens, at least one each; q of them.
            of: int64 [q], the prefix that each suffix continues.
        """
        from transformers import DynamicCache

        places = torch.as_tensor(of)
        first, first_mask = _filled_in_front(prefixes)
        rest, rest_mask = _filled_in_front(suffixes)
        cache = DynamicCache(config=self.model.config)
        self.model(
            input_ids=first,
            attention_mask=first_mask,
            position_ids=(first_mask.cumsum(1) - 1).clamp(min=0),
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.reorder_cache(places)
        begun = first_mask[places]
        ends: Tensor = self.model(
            input_ids=rest,
            attention_mask=torch.cat([begun, rest_mask], 1),
            position_ids=(begun.sum(1, keepdim=True) + rest_mask.cumsum(1) - 1).clamp(min=0),
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        # Half precision is for weights alone.
        ends = ends.to(torch.promote_types(ends.dtype, torch.float32))
        yes, no = self.prompts.answers
        return ends[:, yes] - ends[:, no]


def _filled_in_front(rows: Sequence[IntArray]) -> tuple[Tensor, Tensor]:
    """Return rows of equal length that end together, int64 [n, longest], and what is not filling.

    Filling is token 0, which the mask, int64, hides.
    """
    longest = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), longest), np.int64)
    for row, tokens in enumerate(rows):
        ids[row, longest - len(tokens) :] = tokens
        mask[row, longest - len(tokens) :] = 1
    return torch.as_tensor(ids), torch.as_tensor(mask)
