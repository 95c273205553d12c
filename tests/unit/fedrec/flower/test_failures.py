"""Errors as text."""

from __future__ import annotations

import pytest

from fedrec.errors import ClientFailure, EngineError, FedRecError, MissingExtra, NumericError
from fedrec.flower.failures import Failure


def caught(error: Exception) -> Failure:
    try:
        raise error
    except type(error) as again:
        return Failure.from_json(Failure.of(again).to_json())


@pytest.mark.parametrize(
    "error",
    [
        NumericError("overflow in 'item'"),
        ClientFailure(3, "17", "train", "broke"),
        MissingExtra("the Ray engine", "sim"),
    ],
)
def test_an_error_of_fedrec_comes_back_as_what_it_was(error: FedRecError) -> None:
    restored = caught(error).error("node 3, train, round 7")
    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert "node 3, train, round 7" in restored.__notes__[0]
    assert "in caught" in restored.__notes__[0]


def test_any_other_error_becomes_an_engine_error_in_one_line() -> None:
    restored = caught(KeyError("x")).error("node 3")
    assert type(restored) is EngineError
    assert str(restored) == "node 3: KeyError: 'x'"


def test_a_word_that_is_no_error_is_not_called() -> None:
    """The name comes from another process; it may be that of any object of the module."""
    assert type(Failure("did_you_mean", "a", "").error("here")) is EngineError
