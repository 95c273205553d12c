"""Set the environment of Ray and Flower: no telemetry, no proxy for loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["engine_environment", "engine_variables"]

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray announces what its future versions do
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NO_PROXY = ("no_proxy", "NO_PROXY", "no_grpc_proxy", "NO_GRPC_PROXY")


def engine_variables() -> dict[str, str]:
    """Return the variables to set for processes of Ray and Flower.

    Reporting and update checks are turned off, unless the user has set the variable. Loopback is
    added to every list of hosts without a proxy: gRPC and HTTP clients read these in lower and in
    upper case, and some read ``no_grpc_proxy`` first.
    """
    variables = {name: os.environ.get(name, value) for name, value in QUIET.items()}
    lists = [os.environ[name].split(",") for name in NO_PROXY if name in os.environ]
    hosts = [host.strip() for hosts in lists for host in hosts]
    listed = dict.fromkeys([*filter(None, hosts), *LOOPBACK])
    without_proxy = "*" if "*" in listed else ",".join(listed)
    return variables | dict.fromkeys(NO_PROXY, without_proxy)


@contextmanager
def engine_environment() -> Iterator[None]:
    """Set `engine_variables` in this process, for what it starts meanwhile, then restore them."""
    variables = engine_variables()
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
