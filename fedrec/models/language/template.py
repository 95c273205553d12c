"""Prompts as data: texts with named fields, checked when they are declared."""

from collections.abc import Collection, Mapping
from string import Formatter

from pydantic import Field, field_validator

from fedrec.errors import did_you_mean
from fedrec.plugins import Section

HISTORY, CANDIDATE, ITEM = "history", "candidate", "item"


class Template(Section):
    r"""What a language model is asked: whether a user with a history would take a candidate.

    In each text ``{name}`` stands for a field; ``{{`` and ``}}`` for braces.

    Args:
        text: The question, with the fields ``{history}`` and, after it, ``{candidate}``.
        item: A candidate; its fields are columns of the items, such as ``{title}``.
        entry: An item of the history, with the field ``{item}``; oldest first, one after another.
        chat: Ask in the form in which the model was taught to talk, as its tokenizer knows it.
        answers: The two words whose odds are the score; each one token.
    """

    text: str = (
        "A user watched these films, oldest first:{history}\n"
        "Would the user watch {candidate} next? Answer Yes or No.\nAnswer:"
    )
    item: str = "{title}"
    entry: str = "\n- {item}"
    chat: bool = False
    answers: tuple[str, str] = Field(("Yes", "No"))

    @field_validator("text")
    @classmethod
    def _asks(cls, text: str) -> str:
        names = fields_of(text, (HISTORY, CANDIDATE))
        if names != [HISTORY, CANDIDATE]:
            raise ValueError(
                "text: expected {history} once and then {candidate} once, so that candidates share "
                f"the history; got {_braced(names)}"
            )
        return text

    @field_validator("entry")
    @classmethod
    def _has_item(cls, text: str) -> str:
        if fields_of(text, (ITEM,)) != [ITEM]:
            raise ValueError(f"entry: expected {{item}} once, got '{text}'")
        return text

    @field_validator("item")
    @classmethod
    def _has_columns(cls, text: str) -> str:
        if not fields_of(text):
            raise ValueError(
                f"item: expected a column of the items, such as {{title}}, got '{text}'"
            )
        return text

    @field_validator("answers")
    @classmethod
    def _differ(cls, answers: tuple[str, str]) -> tuple[str, str]:
        if answers[0] == answers[1] or not all(answers):
            raise ValueError(f"answers: expected two different words, got {answers}")
        return answers

    def parts(self) -> tuple[str, str, str]:
        """Return the text before the history, between history and candidate, and after it."""
        before, between, after = (literal for literal, _ in _parsed(f"{self.text}"))
        return before, between, after


def fields_of(text: str, known: Collection[str] | None = None) -> list[str]:
    """Return the fields of a text, in order.

    Args:
        text: With fields in braces.
        known: The fields that there are; None: any.

    Raises:
        ValueError: If a field is unknown, or the braces do not match.
    """
    names = [name for _, name in _parsed(text) if name is not None]
    for name in names:
        if known is not None and name not in known:
            raise ValueError(f"unknown field {{{name}}}{did_you_mean(name, known)}")
    return names


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its fields replaced."""
    return "".join(
        literal + ("" if name is None else values[name]) for literal, name in _parsed(text)
    )


def _parsed(text: str) -> list[tuple[str, str | None]]:
    """Return literals, each with the field after it; the last literal has none."""
    pieces: list[tuple[str, str | None]] = []
    literal = ""
    for before, name, form, conversion in Formatter().parse(text):
        literal += before
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            raise ValueError(f"'{{{name}}}': a field is a name in braces, without anything else")
        pieces.append((literal, name))
        literal = ""
    return [*pieces, (literal, None)]


def _braced(names: Collection[str]) -> str:
    return " ".join(f"{{{name}}}" for name in names) or "none of them"
