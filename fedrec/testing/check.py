"""Which contracts a plug-in has, and how they are checked."""

import ast
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

from fedrec.config.fields import is_of_plugin
from fedrec.config.yaml import with_overrides
from fedrec.errors import ConfigError, FedRecError, did_you_mean
from fedrec.evaluation.metrics import Metric
from fedrec.imports import searching
from fedrec.plugins import CORE_TABLES, Plugin, expand_path, lookup, table
from fedrec.testing.contracts import (
    CLIENT_RULE_CONTRACTS,
    CONTRACTS,
    STRATEGY_CONTRACTS,
    Contract,
)
from fedrec.testing.strategies import contracts_of_part
from fedrec.testing.transforms import ATTACK_CONTRACTS, TRANSFORM_CONTRACTS, choices_are_clients
from fedrec.testing.trial import require
from fedrec.training.client_rule import client_rule_of
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.base import Transform

KINDS = (
    *CORE_TABLES,
    "strategies",
    "client_rules",
    "aggregations",
    "server_optimizers",
    "selections",
)
"""The tables in which a name is looked for, in this order."""


class Contracts:
    """Contract tests of a plug-in, for pytest: derive a class ``Test...`` with the plug-in."""

    plugin: ClassVar[Any]
    """The plug-in, or its class if that has a default for every setting."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make one test of each contract."""
        contracts = contracts_of(_instance(self.plugin, {}))
        metafunc.parametrize("contract", contracts, ids=lambda contract: contract.__name__)

    def test_contract(self, contract: Contract) -> None:
        """Check that the plug-in keeps a contract."""
        contract(checked_as(_instance(self.plugin, {}), contract))


def settings_survive_a_file(plugin: Plugin) -> None:
    """Keep settings that are written to a file and read back, and be found by name."""
    kind = type(plugin)
    again = kind.model_validate(json.loads(plugin.model_dump_json()))
    require(again == plugin, f"{plugin!r} comes back as {again!r}")
    if "<locals>" not in kind.__qualname__:
        reference = f"{kind.__module__}:{kind.__qualname__}"
        require(lookup("plug-ins", reference) is kind, f"'{reference}' is another class")


def checked_as(plugin: Plugin, contract: Contract) -> Plugin:
    """Return what a contract is checked of: the contracts of strategies, of one with the part."""
    alone = contract is settings_survive_a_file or contract in contracts_of_part(plugin)
    return plugin if alone else _with_strategy(plugin)


def _with_strategy(plugin: Plugin) -> Plugin:
    """Return a strategy whose one part is the plug-in; the plug-in where it is none."""
    plain = table("strategies")["fedavg"]
    fields = plain.model_fields.items()
    parts: dict[str, Any] = {name: f.annotation for name, f in fields if is_of_plugin(f)}
    place = next((name for name, base in parts.items() if isinstance(plugin, base)), None)
    if place is None:
        return plugin
    averages = getattr(plugin, "needs_average", ())
    fitting = {"aggregation": {"average": averages[0]}} if averages else {}
    return plain.model_validate({**fitting, place: plugin})


def contracts_of(plugin: Plugin) -> list[Contract]:
    """Return the contracts of a plug-in; for a part of a strategy, those of a strategy too.

    Raises:
        ConfigError: If it is of no kind that has contracts.
    """
    contracts: list[Contract] = [settings_survive_a_file]
    contracts += (
        each for base in CONTRACTS if isinstance(plugin, base) for each in CONTRACTS[base]
    )
    contracts += contracts_of_part(plugin)
    if isinstance(plugin, Transform):
        contracts += ATTACK_CONTRACTS if isinstance(plugin, Attack) else TRANSFORM_CONTRACTS
    if hasattr(plugin, "choose") and hasattr(plugin, "learned"):  # a selection, likewise above
        contracts.append(choices_are_clients)
    strategy = _with_strategy(plugin)
    if hasattr(strategy, "broadcast"):  # a strategy, whose base class is above this package
        rule = client_rule_of(strategy)
        asks = not rule.plain or rule.proximal > 0
        contracts += (*STRATEGY_CONTRACTS, *(CLIENT_RULE_CONTRACTS if asks else ()))
    if len(contracts) == 1:
        raise ConfigError(
            f"{type(plugin).__qualname__} is no model, baseline, personalization, data set, "
            "encoder, metric, strategy or part of one, transform, attack, selection or description "
            "of devices; derive it from the base class of one of these"
        )
    return contracts


def check(plugin: Plugin) -> Iterator[tuple[str, str, str]]:
    """Check all contracts of a plug-in.

    Yields:
        ``passed``, ``failed`` or ``not applicable``; the contract; and why, or "".

    Raises:
        ConfigError: If it is of no kind that has contracts.
    """
    for contract in contracts_of(plugin):
        verdict, why = "passed", ""
        try:
            contract(checked_as(plugin, contract))
        except SkipTest as reason:
            verdict, why = "not applicable", str(reason)
        except Exception as error:  # what a plug-in raises can be anything
            ours = isinstance(error, AssertionError | FedRecError)
            kind = "" if ours else f"{type(error).__name__}: "
            verdict, why = "failed", kind + str(error)
        yield verdict, str(contract.__doc__).partition("\n")[0].rstrip("."), " ".join(why.split())


def load_plugin(reference: str, sets: Sequence[str] = ()) -> Plugin:
    """Return a plug-in.

    Args:
        reference: ``package.module:Class``, ``path/to/file.py:Class``, a name such as ``mf``, or,
            where several tables have the name, such as ``aggregations/median``.
        sets: Its settings, as texts ``key=value``, with a value in YAML.

    Raises:
        ConfigError: If there is none of that name, it cannot be loaded, or a setting is wrong.
    """
    path, _, name = reference.rpartition(":")
    if name.endswith(".py"):
        path, name = reference, ""
    file = expand_path(path)
    if file.suffix == ".py":
        if not file.is_file():
            raise ConfigError(f"{path}: no such file; give file.py:Class")
        if not name:
            classes = ", ".join(_classes(file)) or "none"
            raise ConfigError(f"{path}: expected {path}:Class; its classes are {classes}")
        reference = f"{file.stem}:{name}"
    kinds = {name: kind for kind in reversed(KINDS) for name in table(kind)}
    kinds |= {f"{kind}/{name}": kind for kind in KINDS for name in table(kind)}
    if not path and reference not in kinds:
        raise ConfigError(f"'{reference}' is no plug-in{did_you_mean(reference, kinds)}")
    with searching([file.parent if file.suffix == ".py" else Path()]):
        name = reference if path else reference.rpartition("/")[2]
        plugin = lookup(kinds.get(reference, "plug-ins"), name)
        try:
            return _instance(plugin, with_overrides({}, sets))
        except ConfigError as error:
            faults = [(each, f"; give it with --set {each.where}=VALUE") for each in error.faults]
            raise ConfigError(
                *(f._replace(what=f.what + how * (f.what == "is missing")) for f, how in faults)
            ) from None


def _classes(file: Path) -> list[str]:
    """Return the names of the classes that a file defines."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return []
    return [each.name for each in tree.body if isinstance(each, ast.ClassDef)]


def _instance(plugin: Any, settings: dict[str, Any]) -> Plugin:
    if isinstance(plugin, Plugin):
        return plugin
    if issubclass(plugin, Metric) and plugin.needs_k:
        settings = {"k": 10, **settings}
    instance: Plugin = plugin.model_validate(settings)
    return instance
