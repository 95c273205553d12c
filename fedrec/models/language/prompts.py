"""The tokens of prompts: each text is tokenised once, and prompts are put together from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, did_you_mean
from fedrec.models.language.template import Template, fields_of, filled
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import IntArray


@dataclass(frozen=True, slots=True)
class Prompts:
    """A template as tokens: before, entries of a history, between, a candidate, after.

    Args:
        before: int64 [n], the text before the history.
        between: int64 [n], from the history to the candidate.
        after: int64 [n], behind the candidate.
        entries: One row per item, as it stands in a history.
        candidates: One row per item, as it stands as a candidate.
        answers: The tokens whose odds are the score.
        room: How many tokens of a prompt are left for the history.
        untitled: How many items have an empty text.
    """

    before: IntArray
    between: IntArray
    after: IntArray
    entries: Ragged
    candidates: Ragged
    answers: tuple[int, int]
    room: int
    untitled: int

    @classmethod
    def of(
        cls, template: Template, tokenizer: Any, catalogue: Catalogue, max_tokens: int
    ) -> "Prompts":
        """Tokenise a template and all items.

        Args:
            template: What is asked.
            tokenizer: Of transformers.
            catalogue: Its columns are the fields of an item.
            max_tokens: Of the longest prompt.

        Raises:
            ConfigError: If the items lack a column, an answer is not one token, or a prompt
                without history is too long.
        """
        texts = item_texts(template, catalogue)
        before, between, after = _parts(template, tokenizer)
        # A space before a word belongs to it.
        shown = between.rstrip(" ")
        space, after = between[len(shown) :], after.rstrip(" ")
        # A chat template has in it what begins a text.
        start = [] if template.chat else _tokens(tokenizer, [""], special=True)[0]
        framed = _tokens(tokenizer, [before, shown, after])
        entries = _rows(_tokens(tokenizer, [filled(template.entry, {"item": t}) for t in texts]))
        candidates = _rows(_tokens(tokenizer, [space + text for text in texts]))
        fixed = len(start) + sum(map(len, framed)) + int(candidates.lengths.max(initial=0))
        if fixed + int(entries.lengths.max(initial=0)) > max_tokens:
            raise ConfigError(
                f"model.max_tokens: {max_tokens} are too few for the template with the longest "
                f"item and one entry of history, {fixed + int(entries.lengths.max())}"
            )
        before_ids, between_ids, after_ids = (np.asarray(ids, np.int64) for ids in framed)
        return cls(
            np.concatenate([np.asarray(start, np.int64), before_ids]),
            between_ids,
            after_ids,
            entries,
            candidates,
            _answers(template, tokenizer, after),
            max_tokens - fixed,
            sum(not text.strip() for text in texts),
        )

    def content(self) -> IntArray:
        """Return all that prompts are made of as numbers, int64 [n]."""
        rows = (self.entries.offsets, self.entries.values, self.candidates.offsets)
        texts = (self.before, self.between, self.after, self.candidates.values)
        return np.concatenate([*texts, *rows, [*self.answers, self.room]])

    def shown(self, items: IntArray) -> IntArray:
        """Return those items of a history, oldest first, that a prompt has room for: the latest."""
        from_the_end = np.cumsum(self.entries.lengths[items][::-1])
        return items[len(items) - int(np.searchsorted(from_the_end, self.room, side="right")) :]

    def cut(self, histories: Ragged) -> int:
        """Return how many of some histories, items oldest first, lose entries for want of room."""
        rows = (histories.row(row) for row in range(len(histories)))
        return sum(len(self.shown(items)) < len(items) for items in rows)

    def prefix(self, items: IntArray) -> IntArray:
        """Return what the prompts of all candidates after a history begin with, int64 [n]."""
        entries = [self.entries.row(item) for item in self.shown(items)]
        return np.concatenate([self.before, *entries, self.between])

    def suffix(self, item: int) -> IntArray:
        """Return the rest of the prompt of a candidate, int64 [n]."""
        return np.concatenate([self.candidates.row(item), self.after])


def item_texts(template: Template, catalogue: Catalogue) -> list[str]:
    """Return the text of each item.

    Raises:
        ConfigError: If the template names a column that the items do not have.
    """
    columns = catalogue.item_columns
    names = fields_of(template.item)
    if missing := [name for name in names if name not in columns]:
        hint = did_you_mean(missing[0], columns) or "; the data has no columns of items"
        raise ConfigError(f"model.template.item: the items have no column '{missing[0]}'{hint}")
    rows = zip(*(columns[name] for name in names), strict=True)
    return [filled(template.item, dict(zip(names, map(str, row), strict=True))) for row in rows]


def _parts(template: Template, tokenizer: Any) -> tuple[str, str, str]:
    """Return the three literals of a template, in the model's form of talk if it asks so."""
    if not template.chat:
        return template.parts()
    if not tokenizer.chat_template:
        raise ConfigError("model.template.chat: the tokenizer has no chat template; write false")
    talk = [{"role": "user", "content": template.text}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    return template.model_copy(update={"text": text}).parts()


def _answers(template: Template, tokenizer: Any, after: str) -> tuple[int, int]:
    """Return the token of each answer, as it stands after the prompt."""
    space = "" if after[-1:].isspace() else " "
    tokens = _tokens(tokenizer, [space + word for word in template.answers])
    for word, ids in zip(template.answers, tokens, strict=True):
        if len(ids) != 1:
            raise ConfigError(
                f"model.template.answers: '{word}' is {len(ids)} tokens of this model "
                f"({', '.join(map(repr, tokenizer.convert_ids_to_tokens(ids)))}); give words that "
                "are one token"
            )
    (yes,), (no,) = tokens
    if yes == no:
        raise ConfigError("model.template.answers: both words are the same token of this model")
    return int(yes), int(no)


def _tokens(tokenizer: Any, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
    """Return the tokens of some texts; ``special``: with what begins a text."""
    ids = tokenizer(list(texts), add_special_tokens=special)["input_ids"]
    return [list(map(int, row)) for row in ids]


def _rows(tokens: Sequence[Sequence[int]]) -> Ragged:
    lengths = np.asarray([len(row) for row in tokens], np.int64)
    return Ragged(offsets_of(lengths), np.asarray([t for row in tokens for t in row], np.int64))
