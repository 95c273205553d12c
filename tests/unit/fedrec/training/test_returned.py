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
    ],
)
def test_a_client_rule(update: Any) -> None:
    class Odd(ClientRule):
        up: ClassVar[tuple[str, ...]] = ("up",)
        memory: ClassVar[tuple[str, ...]] = ("kept",)

        def finalize(self, view: Any) -> ClientUpdate:
            result: ClientUpdate = update(view.value - view.start)
            return result

    with pytest.raises(ConfigError, match=r"^client rule: finalize of 'item': .*expected "):
        run(client_rule=Odd())


def test_a_term_of_another_shape() -> None:
    class Odd(ClientRule):
        def gradient_term(self, view: Any) -> torch.Tensor:
            return torch.ones(())

    with pytest.raises(ConfigError, match=r"gradient_term of 'item' returned "):
        run(client_rule=Odd())
