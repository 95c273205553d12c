"""Nobody reports home unasked."""

from __future__ import annotations

import os

import pytest

from fedrec.flower.telemetry import be_quiet, quiet_environment

REPORTING = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def test_reporting_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in REPORTING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    be_quiet()
    assert REPORTING.items() <= os.environ.items()


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert quiet_environment()["FLWR_TELEMETRY_ENABLED"] == "1"
