"""What a strategy returns is checked at once, and the message names the strategy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import fedrec
from fedrec.aggregation.returned import (
    checked_apply,
    checked_broadcast,
    checked_groups,
    checked_init,
    checked_sum,
    merged,
)
from fedrec.aggregation.update import Aggregate, Aggregates, Down, Mix
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError, FedRecError, NumericError
from fedrec.testing.strategies import updates
from fedrec.training.client_rule import ClientRule, client_rule_of
from fedrec.types import FloatArray, IntArray, Params, State
from strategies import FedAvg
from strategies.base import Payload, Strategy
from strategies.client_rules.proximal import Proximal
from strategies.client_rules.scaffold import ControlVariates

ITEM: FloatArray = np.ones((3, 2), np.float32)
PARAMS: Params = {"item": ITEM, "scale": np.array(0.5, np.float32)}


CLIENTS = np.arange(3)


def in_round(number: int) -> RoundContext:
    return RoundContext(0, number, 4, 3)


class Returning(FedAvg):
    """Returns what the test asks for, from each of its methods."""

    payload: ClassVar[Payload] = "client"

    def init(self, params: Params, context: RoundContext) -> State:
        return RETURNED["init"] if "init" in RETURNED else State()

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        return RETURNED["apply"](params) if "apply" in RETURNED else (state, params)

    def broadcast(
        self, state: State, params: Params, client_ids: IntArray, context: RoundContext
    ) -> Down:
        return RETURNED["broadcast"](params) if "broadcast" in RETURNED else Down(params)

    def groups(self, state: State, client_ids: IntArray) -> IntArray:
        chosen = RETURNED.get("groups", np.zeros_like)
        return chosen(client_ids)  # type: ignore[no-any-return]


class Still(Strategy):
    """Changes nothing, and is made of no parts."""

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        return state, params


RETURNED: dict[str, Any] = {}

CHANGES: list[tuple[str, Callable[[Params], Any], str]] = [
    (
        "shape",
        lambda p: {**p, "item": p["item"][:2]},
        r"'item' float32 \[2, 2\], expected 'item' float32 \[\d",
    ),
    (
        "float64",
        lambda p: {**p, "item": p["item"].astype(np.float64)},
        r"'item' float64 \[3, 2\]",
    ),
    (
        "float16",
        lambda p: {**p, "item": p["item"].astype(np.float16)},
        r"'item' float16 \[3, 2\]",
    ),
    (
        "list",
        lambda p: {**p, "item": p["item"].tolist()},
        r"'item' list, expected 'item' float32 \[3, 2\]",
    ),
    ("renamed", lambda p: {"table": p["item"]}, r"returned 'table' .*, expected 'item'"),
    ("missing", lambda p: {}, r"returned nothing, expected 'item'"),
    ("added", lambda p: {**p, "more": p["item"]}, r"returned 'more' .*, expected nothing"),
    ("nan", lambda p: {**p, "item": p["item"] * np.float32(np.nan)}, r"'item' that is not finite"),
    ("inf", lambda p: {**p, "item": p["item"] + np.float32(np.inf)}, r"'item' that is not finite"),
]
changed = pytest.mark.parametrize(
    ("change", "said"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES]
)


@pytest.fixture(autouse=True)
def returned() -> dict[str, Any]:
    RETURNED.clear()
    return RETURNED


@changed
def test_parameters(change: Callable[[Params], Any], said: str, returned: dict[str, Any]) -> None:
    returned["apply"] = lambda params: (State(), change(params))
    returned["broadcast"] = lambda params: Down(change(params))
    with pytest.raises(FedRecError, match=rf"^(round 7, )?strategy \S+Returning: apply .*{said}"):
        checked_apply(Returning(), State(), PARAMS, {}, in_round(7))
    with pytest.raises(FedRecError, match=rf"^strategy \S+Returning: broadcast .*{said}"):
        sent(PARAMS)


def sent(params: Params, rule: ClientRule | None = None) -> Down:
    return checked_broadcast(
        Returning(), rule or ClientRule(), State(), params, CLIENTS, in_round(1)
    )


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "None as its state, expected a State"),
        (State({"m": np.array(["a"])}), r"<U1 \[1\] as 'm' of its state"),
        (State({"m": [1.0]}), "list as 'm' of its state"),  # type: ignore[dict-item]
        (State({"m": np.ones(2, np.complex64)}), r"complex64 \[2\] as 'm'"),
        (State({}, {"step": {1, 2}}), "are not JSON, .*not JSON serializable"),
        (State({}, {"step": (1, 2)}), r"would be changed by it \(.*\[1, 2\]"),
    ],
    ids=str,
)
def test_a_state_that_no_checkpoint_can_keep(
    state: Any, said: str, returned: dict[str, Any]
) -> None:
    returned["init"] = state
    with pytest.raises(ConfigError, match=rf"^strategy \S+Returning: init returned .*{said}"):
        checked_init(Returning(), PARAMS, in_round(0))
    returned["apply"] = lambda params: (state, params)
    with pytest.raises(ConfigError, match=rf"^round 1, strategy \S+Returning: apply .*{said}"):
        checked_apply(Returning(), State(), PARAMS, {}, in_round(1))


@pytest.mark.parametrize("pair", [None, State(), (State(),), [State(), PARAMS]])
def test_apply_returns_a_pair(pair: Any, returned: dict[str, Any]) -> None:
    returned["apply"] = lambda _: pair
    with pytest.raises(ConfigError, match=r"apply returned \w+, expected \(state, parameters\)"):
        checked_apply(Returning(), State(), PARAMS, {}, in_round(1))
    returned["apply"] = lambda _: (State(), pair)
    with pytest.raises(ConfigError, match=r"apply returned \w+, expected parameters by name"):
        checked_apply(Returning(), State(), PARAMS, {}, in_round(1))


def test_what_is_well_formed_passes(returned: dict[str, Any]) -> None:
    """Scalars of numpy count as arrays without dimensions."""
    step: dict[str, Any] = {"step": np.int64(3)}
    after: dict[str, Any] = {"item": ITEM * 2, "scale": np.float32(0.25)}
    returned["apply"] = lambda _: (State(step, {"name": "x"}), after)
    state, params = checked_apply(Returning(), State(), PARAMS, {}, in_round(1))
    assert state.arrays["step"].shape == params["scale"].shape == ()
    assert params["scale"] == np.float32(0.25)


@pytest.mark.parametrize("method", ["apply", "broadcast"])
def test_a_run_stops_there(method: str, returned: dict[str, Any], tmp_path: Path) -> None:
    _, change, said = CHANGES[0]
    returned[method] = lambda p: (State(), change(p)) if method == "apply" else Down(change(p))
    experiment = {
        "data": {"name": "synthetic", "users": 8, "items": 12, "taste_groups": 2},
        "model": {"name": "mf", "embedding_dim": 2},
        "train": {"backend": "torch"},
        "strategy": {"name": f"{__name__}:Returning"},
        "rounds": {"count": 2},
        "engine": {"name": "serial", "nodes": 1},
    }
    with pytest.raises(ConfigError, match=rf"Returning: {method} .*{said}") as caught:
        fedrec.run(experiment, out=tmp_path / "run")
    assert "client" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: ids * 1.5,
        lambda ids: ids[:1],
        lambda ids: ids[:, None],
        lambda ids: ids - 1,
        lambda ids: ids + 2**31,
        lambda ids: ids > 0,
        lambda ids: ids.tolist(),
        lambda ids: None,
    ],
    ids=["floats", "too few", "a column", "below 0", "too large", "truth values", "a list", "none"],
)
def test_groups(change: Callable[[IntArray], Any], returned: dict[str, Any]) -> None:
    returned["groups"] = change
    with pytest.raises(
        ConfigError, match=r"^strategy \S+Returning: groups returned .* for each of 3 clients"
    ):
        checked_groups(Returning(), State(), np.arange(3))


@pytest.mark.parametrize("returned", [None, {}, State()])
def test_a_sum_is_one_of_all_its_clients(returned: Any) -> None:
    one, other = (Aggregate(clients, 0, {}, {}, {}, {}) for clients in (1, 2))
    for lost in (returned, one, other):
        methods = {"reduce": lambda *_, lost=lost: lost, "merge": lambda *_, lost=lost: lost}
        odd = type("Odd", (FedAvg,), {"__module__": __name__, **methods})()
        with pytest.raises(ConfigError, match=r"^strategy \S+Odd: merge returned "):
            merged(odd, one, other)
        with pytest.raises(ConfigError, match=r"^strategy \S+Odd: reduce returned "):
            checked_sum(odd, "reduce", 3, None)


@pytest.mark.parametrize("method", ["reduce", "merge"])
def test_a_sum_is_one_of_every_parameter(method: str) -> None:
    batch = updates([[0, 1]], 0)
    aggregate = FedAvg().reduce(batch)
    without = {"__module__": __name__, method: lambda *_: replace(aggregate, sums={})}
    odd = type("Odd", (FedAvg,), without)()
    given = (batch,) if method == "reduce" else (aggregate, aggregate)
    with pytest.raises(ConfigError, match=rf"^strategy \S+Odd: {method} returned no sum of '"):
        checked_sum(odd, method, 1, *given)


@pytest.mark.parametrize(
    "attributes", [{"needs": "eahc"}, {"payload": "clients"}, {"published": lambda *_: {}}]
)
def test_a_class_that_declares_what_cannot_be_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^strategy Odd: "):
        type("Odd", (FedAvg,), {"__module__": __name__, **attributes})


@pytest.mark.parametrize("base", [FedAvg, Still])
def test_a_client_rule_may_be_an_attribute_of_the_class(base: type[Strategy]) -> None:
    annotated = {"client_rule": Proximal(mu=0.5), "__annotations__": {"client_rule": ClassVar[Any]}}
    kind: Any = type(base)
    fixed = kind("Fixed", (base,), {"__module__": __name__, **annotated})
    assert client_rule_of(fixed()).proximal == 0.5


@pytest.mark.parametrize("rule", [None, "prox", ClientRule], ids=str)
@pytest.mark.parametrize("proximal", [np.nan, -1.0, np.inf])
def test_a_client_rule(rule: Any, proximal: float) -> None:
    odd = type(
        "Odd", (ClientRule,), {"proximal": property(lambda _: proximal), "__module__": __name__}
    )()
    for each in (rule, odd):
        strategy = SimpleNamespace(client_rule=each)
        with pytest.raises(ConfigError, match=r"^strategy SimpleNamespace: client_rule is "):
            client_rule_of(strategy)


@pytest.mark.parametrize(
    "attributes",
    [{"memory": "s"}, {"up": "up"}, {"down": "x"}, {"remembers": "all"}, {"needs_average": "sum"}],
    ids=str,
)
def test_a_client_rule_that_declares_what_cannot_be_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^client rule Odd: "):
        type("Odd", (ClientRule,), {"__module__": __name__, **attributes})


def test_large_parameters_are_a_matter_of_rates(returned: dict[str, Any]) -> None:
    returned["broadcast"] = lambda params: Down(
        {name: value + np.float32(np.inf) for name, value in params.items()}
    )
    for size, error in ((1e3, ConfigError), (1e20, NumericError)):
        with pytest.raises(error, match="not finite"):
            sent({"item": ITEM * np.float32(size)})


# Values of clients' own -----------------------------------------------------------------------

BASES, WEIGHTS = np.stack([ITEM, 2 * ITEM]), np.eye(3, 2, dtype=np.float32)


def test_what_a_client_rule_asks_for_is_sent(returned: dict[str, Any]) -> None:
    beside = {f"{name}/control": value for name, value in PARAMS.items()}
    returned["broadcast"] = lambda params: Down({**params, **beside})
    assert set(sent(PARAMS, ControlVariates()).shared) == {*PARAMS, *beside}
    returned.clear()
    with pytest.raises(ConfigError, match=r"broadcast returned nothing, expected 'item/control'"):
        sent(PARAMS, ControlVariates())


def test_values_of_clients_own_stand_for_the_shared_ones(returned: dict[str, Any]) -> None:
    shared = {"scale": PARAMS["scale"]}
    returned["broadcast"] = lambda _: Down(shared, {"item": Mix(BASES, WEIGHTS)})
    assert sent(PARAMS).own["item"].bases is BASES
    undeclared = type("Undeclared", (Returning,), {"payload": "shared", "__module__": __name__})()
    with pytest.raises(ConfigError, match=r"Undeclared: broadcast .*payload is 'shared'; declare"):
        checked_broadcast(undeclared, ClientRule(), State(), PARAMS, CLIENTS, in_round(1))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (Mix(BASES, WEIGHTS[:2]), r"float32 \[2, 2\], expected 3 rows of weights"),
        (Mix(BASES, WEIGHTS[:, :1]), r"float32 \[3, 1\], expected 3 rows of weights"),
        (Mix(BASES, WEIGHTS.astype(np.float64)), r"float64 \[3, 2\], expected .*, float32"),
        (Mix(BASES[:0], WEIGHTS[:, :0]), r"no base values of 'item'"),
        (Mix(BASES[:, :2], WEIGHTS), r"'item' float32 \[2, 2\], expected 'item' float32 \[3, 2"),
        (Mix(BASES.astype(np.float64), WEIGHTS), r"'item' float64"),
        (Mix(BASES * np.float32(np.nan), WEIGHTS), r"'item' that is not finite"),
        (Mix(BASES, WEIGHTS + np.float32(np.inf)), r"'weights of item' that is not finite"),
        (BASES, r"float32 \[2, 3, 2\], expected a Mix as 'item'"),
        (None, r"None, expected a Mix as 'item'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mixture_fits(own: Any, said: str, returned: dict[str, Any]) -> None:
    returned["broadcast"] = lambda _: Down({"scale": PARAMS["scale"]}, {"item": own})
    with pytest.raises(ConfigError, match=rf"^strategy \S+Returning: broadcast returned .*{said}"):
        sent(PARAMS)


def test_a_parameter_is_shared_or_of_clients_own(returned: dict[str, Any]) -> None:
    returned["broadcast"] = lambda params: Down(params, {"item": Mix(BASES, WEIGHTS)})
    with pytest.raises(ConfigError, match=r"Returning: broadcast returned 'item' in shared and in"):
        sent(PARAMS)


@pytest.mark.parametrize("down", [None, PARAMS, (PARAMS, {})], ids=str)
def test_broadcast_returns_what_is_sent(down: Any, returned: dict[str, Any]) -> None:
    returned["broadcast"] = lambda _: down
    with pytest.raises(ConfigError, match=r"broadcast returned \w+, expected a Down"):
        sent(PARAMS)


def test_groups_of_any_whole_numbers(returned: dict[str, Any]) -> None:
    returned["groups"] = lambda ids: (ids % 2).astype(np.uint8)
    groups = checked_groups(Returning(), State(), np.arange(3))
    assert groups.dtype == np.int64
    assert groups.tolist() == [0, 1, 0]
