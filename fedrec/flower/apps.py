"""Find the apps of the outer packages by entry point; the library imports none of them."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from fedrec.errors import EngineError, did_you_mean

__all__ = ["app_reference", "load_app"]

GROUP = "fedrec.apps"


def app_reference(name: Literal["server", "client"]) -> str:
    """Return the reference of an app of fedrec's distribution, such as ``server.app:app``.

    Raises:
        EngineError: If fedrec is not installed, or the installation lacks the entry.
    """
    references = {entry.value for entry in entry_points(group=GROUP) if entry.name == name}
    if not references:
        raise EngineError(
            f"no app '{name}' is registered: fedrec runs from a folder without being installed; "
            "run: pip install -e ."
        )
    if len(references) > 1:
        raise EngineError(f"two packages bring an app '{name}': {', '.join(sorted(references))}")
    return references.pop()


def load_app(reference: str, kind: Literal["ServerApp", "ClientApp"]) -> Any:
    """Import an app.

    Args:
        reference: ``module:attribute``.
        kind: What it must be.

    Raises:
        EngineError: If there is no such attribute, or it is something else.
    """
    name, _, attribute = reference.partition(":")
    flower = "flwr.serverapp" if kind == "ServerApp" else "flwr.clientapp"
    module = importlib.import_module(name)
    app = getattr(module, attribute, None)
    if app is None:
        hint = did_you_mean(attribute, vars(module))
        raise EngineError(f"module '{name}' has no '{attribute}'{hint}")
    if not isinstance(app, getattr(importlib.import_module(flower), kind)):
        raise EngineError(f"{reference} is a {type(app).__name__}, expected a {kind}")
    return app
