from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, model_validator

from fedrec.errors import ConfigError, Fault
from fedrec.plugins import Section, shown


class Inner(Section):
    rate: float = Field(1.0, gt=0, lt=2)
    size: int | Literal["all"] = 1
    flag: bool = False
    path: Path = Path()

    renamed: ClassVar[Mapping[str, str]] = {"old": "inner.rate and inner.size", "nest": "deep.er"}

    @model_validator(mode="after")
    def _named(self) -> Inner:
        if self.size == 7:
            raise ValueError("size: seven is taken")
        return self


class Outer(Section):
    inner: Inner = Inner()
    names: tuple[str, ...] = ()


def faults_of(values: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Outer.model_validate(values)
    assert "pydantic" not in str(caught.value)
    assert caught.value.__cause__ is None
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"inner": {"rate": 0}}, "inner.rate: expected more than 0, got 0"),
        ({"inner": {"rate": 2.0}}, "inner.rate: expected less than 2, got 2"),
        ({"inner": {"rate": "x"}}, "inner.rate: expected a number, got 'x'"),
        ({"inner": {"rate": None}}, "inner.rate: expected a number, got null"),
        ({"inner": {"size": "al"}}, "inner.size: expected a whole number or 'all', got 'al'"),
        ({"inner": {"size": 7}}, "inner.size: seven is taken"),
        ({"inner": {"flag": "perhaps"}}, "inner.flag: expected true or false, got 'perhaps'"),
        ({"inner": {"flg": 1}}, "inner.flg: unknown key (did you mean 'flag'?)"),
        ({"inner": 3}, "inner: expected a mapping of keys to values, got 3"),
        ({"inner": {"rate": True}}, "inner.rate: expected a number or a word, got true"),
        ({"inner": {1: 2}}, "inner.1: unknown key: expected text"),
        ({"names": [{None: 2}]}, "names.0: expected text, got {None: 2}"),
        (
            {"inner": {"path": "~nobody-here/x"}},
            "inner.path: ~nobody-here/x: there is no such home",
        ),
        ({"names": "a"}, "names: expected a list, got 'a'"),
        ({"names": [1]}, "names.0: expected text, got 1"),
    ],
)
def test_a_fault_in_words(values: object, said: str) -> None:
    (fault,) = faults_of(values)
    assert fault.startswith(said)


def test_every_fault_is_told_once() -> None:
    values = {"inner": {"rate": 0, "size": "x", "flg": 1, "flag": 2, "old": 1}, "name": 2}
    assert len(faults_of(values)) == 6
    assert len(set(faults_of(values))) == 6


def test_python_raises_what_a_document_does() -> None:
    cases: list[dict[Any, Any]] = [{"rate": 0}, {"flg": 1}, {"rate": True}, {1: 2}]
    for values in cases:
        with pytest.raises(ConfigError) as called:
            Inner(**values) if 1 not in values else Inner.model_validate(values)
        assert faults_of({"inner": values}) == [f"inner.{called.value}"]


def test_a_renamed_key_names_the_new_one() -> None:
    text = "this key has a new name; write"
    assert faults_of({"inner": {"old": 1}}) == [f"inner.old: {text} inner.rate and inner.size"]
    assert faults_of({"inner": {"nest": {"a": 1}}}) == [f"inner.nest: {text} deep.er"]


def test_faults_keep_their_section() -> None:
    fault = Fault("lr", "is missing")
    assert str(fault) == "lr: is missing"
    assert ConfigError(fault, "x").faults == (fault, Fault("", "x"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (2.0, "2"), (0.1, "0.1"), (1e300, "1e+300"), ("a", "'a'")],
)
def test_values_are_shown_as_in_yaml(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_long_value_is_cut() -> None:
    assert len(shown("x" * 1000)) < 80
