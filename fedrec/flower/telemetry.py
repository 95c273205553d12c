"""Flower and Ray report home unless told not to; here they are told."""

from __future__ import annotations

import os

__all__ = ["be_quiet", "quiet_environment"]

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def quiet_environment() -> dict[str, str]:
    """The environment variables that turn reporting and update checks off.

    A variable that the user has set keeps the user's value. The last one is no report: without
    it Ray prints a notice about its own future.
    """
    return {name: os.environ.get(name, value) for name, value in QUIET.items()}


def be_quiet() -> None:
    """Apply `quiet_environment` to this process and those it starts."""
    os.environ.update(quiet_environment())
