"""Names and shapes that a personalization or a client rule returns are checked where they arise."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.evaluation.scorer import UserScorer
from fedrec.personalization.base import Personalization
from fedrec.training.client_rule import ClientRule, ClientUpdate
from fedrec.training.clients import train_clients
from fedrec.types import ParamSpec
from strategies.client_rules.proximal import Proximal
from tests.planted import initial_state, method_of, shard_of


class Own(Personalization):
    """Adds values of the client and of its positives."""

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        return {
            "mood": ParamSpec("private", "client", (), init_std=0.1),
            "note": ParamSpec("private", "positive", (dim,), trainable=False),
        }


RETURNED: list[tuple[str, Any]] = [
    ("rows", lambda self, work, *_: work[:, :1]),
    ("rows", lambda self, work, *_: work.mean(0, keepdim=True)),
    ("score", lambda self, base, *_: base.sum()),
    ("score", lambda self, base, *_: base[:1]),
    ("after_epoch", lambda self, frozen, *_: {"nose": frozen}),
    ("after_epoch", lambda self, *_: {"user": torch.zeros(2, 128)}),
    ("after_epoch", lambda self, *_: {"mood": torch.zeros(1)}),
    ("after_round", lambda self, change, _: {"nose": change}),
    ("after_round", lambda self, change, _: {"note": change[:1]}),
    ("rank", lambda self, *_: {"mixd": _[-1].scores()}),
    ("rank", lambda self, *_: {"mixed": _[-1].scores(), "local": _[-1].scores()}),
    ("rank", lambda self, *_: {"mixed": _[-1].scores()[:, :4]}),
    ("rank", lambda self, *_: {"mixed": _[-1].scores().repeat(2, 2)}),
    ("rank", lambda self, *_: {"mixed": _[-1].scores()[:, :1]}),
]


def run(**task: Any) -> None:
    shard = shard_of(9, [[0, 1, 4], [2, 3]])
    tried = method_of(**task)
    params, private = initial_state(tried, shard)
    _, private = train_clients(tried, shard, params, private, 1)
    UserScorer(tried, shard, params, private)(np.arange(2))


@pytest.mark.parametrize(("method", "returned"), RETURNED)
def test_a_personalization(method: str, returned: Any) -> None:
    attributes = {"prepare": lambda *_: None, method: returned}
    odd: Any = type("Odd", (Own,), {"__module__": __name__, **attributes})
    with pytest.raises(ConfigError, match=f"^personalization Odd: {method} returned .*expected "):
        run(personalization=odd())


def test_a_view_that_is_not_ranked() -> None:
    rank = lambda self, *given: {"mixed": given[-1].scores()}  # noqa: E731
    attributes = {"views": ("mixed", "local"), "rank": rank}
    odd: Any = type("Odd", (Own,), {"__module__": __name__, **attributes})
    with pytest.raises(ConfigError, match=r"Odd: rank returned nothing, expected 'local'"):
        run(personalization=odd())


@pytest.mark.parametrize("method", ["rows", "score"])
def test_what_is_not_finite_is_the_code_of_who_returned_it(method: str) -> None:
    attributes = {method: lambda self, given, *_: given / 0.0}
    odd: Any = type("Odd", (Own,), {"__module__": __name__, **attributes})
    with pytest.raises(ConfigError, match=f"^personalization Odd: {method} is not finite"):
        run(personalization=odd())


@pytest.mark.parametrize(
    "update",
    [
        lambda change: None,
        lambda change: change,
        lambda change: ClientUpdate(change[:1]),
        lambda change: ClientUpdate(change),
        lambda change: ClientUpdate(change, {"up": change}),
        lambda change: ClientUpdate(change, {"up": change[:1]}, {"kept": change}),
        lambda change: ClientUpdate(change, {"up": change, "more": change}, {"kept": change}),
        lambda change: ClientUpdate(change, {"up": change}, {"other": change}),
        lambda change: ClientUpdate(change.double(), {"up": change}, {"kept": change}),
        lambda change: ClientUpdate(change, {"up": change.half()}, {"kept": change}),
        lambda change: ClientUpdate(change, {"up": change}, {"kept": change.double()}),
        lambda change: ClientUpdate(3, {"up": change}, {"kept": change}),  # type: ignore[arg-type]
    ],
)
def test_a_client_rule(update: Any) -> None:
    class Odd(ClientRule):
        up: ClassVar[tuple[str, ...]] = ("up",)
        memory: ClassVar[tuple[str, ...]] = ("kept",)

        def finalize(self, view: Any) -> ClientUpdate:
            result: ClientUpdate = update(view.value - view.start)
            return result

    with pytest.raises(ConfigError, match=r"^client rule \S+Odd: finalize of 'item'.*expected "):
        run(client_rule=Odd())


OF_RULE: list[tuple[str, Any, str]] = [
    ("gradient_term", lambda *_: torch.ones(()), r"float32 \[\], expected float32 \[\d+, 4\]"),
    ("gradient_term", lambda _, view: view.value.double(), r"float64 .*, expected float32 "),
    ("gradient_term", lambda *_: 5, r"int, expected float32 \["),
    ("extras", lambda *_: 5, "int, expected values by name"),
    ("extras", lambda *_: {"steps": 5}, r"'steps' int, expected 'steps' \[2\]"),
]


@pytest.mark.parametrize(("method", "returned", "said"), OF_RULE)
def test_terms_and_extras(method: str, returned: Any, said: str) -> None:
    odd: Any = type("Odd", (ClientRule,), {"__module__": __name__, method: returned})
    where = rf"^client rule {__name__}:Odd: {method}( of 'item')? returned {said}"
    with pytest.raises(ConfigError, match=where):
        run(client_rule=odd())


@pytest.mark.parametrize(
    ("method", "returned"),
    [
        ("gradient_term", lambda _, view: (view.value - view.start) / 0.0),
        ("finalize", lambda _, view: ClientUpdate(view.value / 0.0)),
    ],
)
def test_what_a_rule_makes_not_finite_is_told_of_it(method: str, returned: Any) -> None:
    odd: Any = type("Odd", (ClientRule,), {"__module__": __name__, method: returned})
    with pytest.raises(ConfigError, match=rf"^client rule {__name__}:Odd: {method} .*not finite"):
        run(client_rule=odd())


def test_a_rule_computes_in_the_type_of_the_task() -> None:
    run(client_rule=Proximal(mu=0.1), dtype="float64")
