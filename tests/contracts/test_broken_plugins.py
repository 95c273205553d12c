"""Each contract fails for a plug-in that breaks it, and says so in one line."""

import re
from typing import Any

import pytest

from fedrec.plugins import Plugin
from fedrec.testing import check, contracts_of
from tests.contracts.broken_plugins import BROKEN


@pytest.mark.parametrize(("plugin", "broken"), BROKEN, ids=lambda value: type(value).__name__)
def test_a_broken_plugin_fails_where_it_is_broken(plugin: Plugin, broken: set[str]) -> None:
    failed = set()
    for contract, (verdict, _, why) in zip(contracts_of(plugin), check(plugin), strict=True):
        name = contract.__name__
        assert (verdict != "passed") == bool(why), name
        assert "\n" not in why
        # An error of numpy or Python tells the author of a plug-in nothing.
        assert not re.match(r"\w+(Error|Exception): ", why), why
        if verdict == "failed":
            failed.add(name)
    assert broken <= failed


def test_every_contract_is_broken_by_one() -> None:
    every: set[Any] = {c.__name__ for plugin, _ in BROKEN for c in contracts_of(plugin)}
    assert every == {name for _, broken in BROKEN for name in broken}
