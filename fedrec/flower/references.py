"""The apps of the outer rooms, found by entry point; the core imports none of them."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from fedrec.errors import EngineError, did_you_mean

__all__ = ["app_reference", "load_app"]

GROUP = "fedrec.apps"


def app_reference(name: Literal["server", "client"]) -> str:
    """The reference of an app of fedrec's distribution, such as ``server.app:app``.

    Args:
        name: Which app.

    Raises:
        EngineError: If fedrec is not installed, or the installation lacks the entry.
    """
    found = {entry.value for entry in entry_points(group=GROUP) if entry.name == name}
    if not found:
        raise EngineError(
            f"no app '{name}' is registered: fedrec runs from a folder without being installed; "
            "run: pip install -e ."
        )
    if len(found) > 1:
        raise EngineError(f"two packages bring an app '{name}': {', '.join(sorted(found))}")
    return found.pop()


def load_app(reference: str, kind: Literal["ServerApp", "ClientApp"]) -> Any:
    """Import an app.

    Args:
        reference: ``module:attribute``.
        kind: What it must be.

    Raises:
        EngineError: If there is no such attribute, or it is something else.
    """
    module, _, attribute = reference.partition(":")
    flower = "flwr.serverapp" if kind == "ServerApp" else "flwr.clientapp"
    expected = getattr(importlib.import_module(flower), kind)
    app = getattr(importlib.import_module(module), attribute, None)
    if app is None:
        known = vars(importlib.import_module(module))
        raise EngineError(f"module '{module}' has no '{attribute}'{did_you_mean(attribute, known)}")
    if not isinstance(app, expected):
        raise EngineError(f"{reference} is a {type(app).__name__}, expected a {kind}")
    return app
