"""Nobody reports home unasked, nothing asks a proxy for this machine, errors travel as text."""

import json
import os
import urllib.request

import pytest

from fedrec.errors import ClientFailure, EngineError, FedRecError, MissingExtra, NumericError
from fedrec.flower.processes import Failure, engine_environment, engine_variables

REPORTING = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
NO_PROXY = ("no_proxy", "NO_PROXY", "no_grpc_proxy", "NO_GRPC_PROXY")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*REPORTING, *NO_PROXY):
        monkeypatch.delenv(name, raising=False)


def test_reporting_is_off_meanwhile_and_the_environment_is_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    before = dict(os.environ)
    with engine_environment():
        assert REPORTING.items() <= os.environ.items()
    assert dict(os.environ) == before
    with pytest.raises(KeyError), engine_environment():
        raise KeyError
    assert dict(os.environ) == before


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert engine_variables()["FLWR_TELEMETRY_ENABLED"] == "1"


@pytest.mark.parametrize("name", [None, *NO_PROXY])
def test_loopback_has_no_proxy_beside_what_the_user_has_listed(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name is not None:
        monkeypatch.setenv(name, "example.org, 10.0.0.0/8")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    variables = engine_variables()
    listed = {name: variables[name].split(",") for name in NO_PROXY}
    for hosts in listed.values():
        assert set(LOOPBACK) <= set(hosts)
        assert (name is None) != ({"example.org", "10.0.0.0/8"} <= set(hosts))
    with engine_environment():
        assert all(urllib.request.proxy_bypass(host) for host in LOOPBACK)
        assert not urllib.request.proxy_bypass("elsewhere.example")


def test_a_list_that_names_every_host_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other entries, clients take the star literally."""
    monkeypatch.setenv("NO_PROXY", "*")
    assert {engine_variables()[name] for name in NO_PROXY} == {"*"}


def caught(error: Exception) -> Failure:
    try:
        raise error
    except type(error) as again:
        return Failure(*json.loads(json.dumps(Failure.of(again))))


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
