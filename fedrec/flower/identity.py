"""Set the one private name of Flower that fedrec needs.

``flwr.app.Message`` reads who its sender is from a class that Flower fills in its own processes.
The engines that run outside of them (serial, Ray) fill it here.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from fedrec.errors import EngineError

__all__ = ["flower_version", "task_identity"]

MODULE = "flwr.supercore.task_identity"
FIELDS = ("_task_id", "_run_id", "_node_id")
_LOCK = threading.Lock()
_ACTIVE: list[tuple[Any, ...]] = []
"""The identity of before the first, then one for each context that is open, in any thread."""


def flower_version() -> str:
    """Return the installed version of Flower, such as ``1.41.0``."""
    return version("flwr")


@contextmanager
def task_identity(run_id: int, node_id: int, task_id: int = 0) -> Iterator[None]:
    """Allow instruction messages to be built in this context.

    The identity belongs to the process: runs in several threads share it, and the one of before
    comes back when the last of them has ended.

    Args:
        run_id: The run that messages belong to.
        node_id: The node that they come from.
        task_id: The task that they come from.

    Raises:
        EngineError: If the installed Flower keeps the identity elsewhere.
    """
    holder, identity = _find(), (task_id, run_id, node_id)
    with _LOCK:
        if not _ACTIVE:
            _ACTIVE.append(tuple(getattr(holder, field) for field in FIELDS))
        _ACTIVE.append(identity)
        _set(holder)
    try:
        yield
    finally:
        with _LOCK:
            del _ACTIVE[len(_ACTIVE) - 1 - _ACTIVE[::-1].index(identity)]
            _set(holder)
            if len(_ACTIVE) == 1:
                _ACTIVE.clear()


def _set(holder: Any) -> None:
    for field, value in zip(FIELDS, _ACTIVE[-1], strict=True):
        setattr(holder, field, value)


def _find() -> Any:
    try:
        holder = importlib.import_module(MODULE).TaskIdentity
        for field in FIELDS:
            getattr(holder, field)
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"flwr {flower_version()} does not have {MODULE}.TaskIdentity as fedrec knows it; "
            "install a version that fedrec was tested with: pip install 'flwr>=1.41,<1.43'"
        ) from error
    return holder
