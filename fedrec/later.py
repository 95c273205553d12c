"""Heavy imports that wait until something of them is used."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["import_later"]


def import_later(name: str) -> None:
    """Let ``import name`` cost nothing until an attribute of the module is used.

    For processes that are fedrec's own, before anything else is imported: a run whose clients
    train in machine code comes to its first evaluation without torch.

    Args:
        name: A module of the top level. One that is imported already, or is not installed, is left
            as it is.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is not None:
        sys.modules[name] = _StandIn(name, spec)


class _StandIn(ModuleType):
    """Stands where a module will be, and passes on what is asked of it once it is there."""

    def __init__(self, name: str, spec: ModuleSpec) -> None:
        super().__init__(name)
        # What Python itself looks at in every module.
        self.__spec__, self.__file__ = spec, spec.origin

    def __getattr__(self, attribute: str) -> Any:
        # Called for what is not here yet; those who imported the stand-in go on asking it.
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        value = getattr(importlib.import_module(name), attribute)
        setattr(self, attribute, value)
        return value
