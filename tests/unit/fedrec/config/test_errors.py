from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from fedrec.config.errors import Fault, SectionFaults, explain, shown
from fedrec.plugins import Section


class Inner(Section):
    rate: float = Field(1.0, gt=0, lt=2)
    size: int | Literal["all"] = 1
    flag: bool = False

    @model_validator(mode="after")
    def _named(self) -> Inner:
        if self.size == 7:
            raise ValueError("size: seven is taken")
        return self


class Outer(Section):
    inner: Inner = Inner()
    names: tuple[str, ...] = ()


def told(values: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return [str(fault) for fault in explain(caught.value)]


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
        ({"names": "a"}, "names: expected a list, got 'a'"),
        ({"names": [1]}, "names.0: expected text, got 1"),
    ],
)
def test_a_fault_in_words(values: object, said: str) -> None:
    assert told(values) == [said]


def test_truth_for_a_number_says_what_yaml_does() -> None:
    (fault,) = told({"inner": {"rate": False}})
    assert fault.startswith("inner.rate: ")
    assert "got false; in YAML" in fault


def test_every_fault_is_told_once() -> None:
    assert len(told({"inner": {"rate": 0, "size": "x", "flg": 1}, "name": 2})) == 4


def test_faults_keep_their_section() -> None:
    fault = Fault("lr", "is missing")
    assert str(fault.within("train.optimizers.item")) == "train.optimizers.item.lr: is missing"
    assert str(Fault("", "is missing").within("data")) == "data: is missing"
    assert SectionFaults([fault, fault]).faults == (fault, fault)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (2.0, "2"), (0.1, "0.1"), (1e300, "1e+300"), ("a", "'a'")],
)
def test_values_are_shown_as_in_yaml(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_long_value_is_cut() -> None:
    assert len(shown("x" * 1000)) < 80
