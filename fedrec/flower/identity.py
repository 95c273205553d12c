"""The one private name of Flower that fedrec needs, and nothing else.

``flwr.app.Message`` reads who its sender is from a class that Flower fills in its own processes.
The engines that run outside of them (serial, Ray) fill it here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from fedrec.errors import EngineError

__all__ = ["flower_version", "task_identity"]

MODULE = "flwr.supercore.task_identity"
FIELDS = ("_task_id", "_run_id", "_node_id")


def flower_version() -> str:
    """The installed version of Flower, such as ``1.41.0``."""
    return version("flwr")


@contextmanager
def task_identity(run_id: int, node_id: int, task_id: int = 0) -> Iterator[None]:
    """Within this context, instruction messages can be built; the former identity comes back.

    Args:
        run_id: The run that messages belong to.
        node_id: The node that they come from.
        task_id: The task that they come from.

    Raises:
        EngineError: If the installed Flower keeps the identity elsewhere.
    """
    identity = _find()
    former = {field: getattr(identity, field) for field in FIELDS}
    for field, value in zip(FIELDS, (task_id, run_id, node_id), strict=True):
        setattr(identity, field, value)
    try:
        yield
    finally:
        for field, value in former.items():
            setattr(identity, field, value)


def _find() -> Any:
    try:
        identity = importlib.import_module(MODULE).TaskIdentity
        for field in FIELDS:
            getattr(identity, field)
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"flwr {flower_version()} does not have {MODULE}.TaskIdentity as fedrec knows it; "
            "install a version that fedrec was tested with: pip install 'flwr>=1.41,<1.43'"
        ) from error
    return identity
