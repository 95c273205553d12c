"""Whatever module a client model builds, it works or is refused in one line before training."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.testing import check
from fedrec.testing.contracts import (
    clients_are_computed_as_if_alone,
    every_value_is_trained,
    together_is_one_by_one,
)
from fedrec.testing.trial import Trial
from fedrec.types import ParamSpec


class Odd(Model):
    """A module, by name, over 8 numbers of the user and 8 of the item."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "vmap"
    name: str = "frozen"

    def build(self, catalogue: Catalogue) -> nn.Module:
        refused = {name: build for name, (build, _) in {**REFUSED, **REFUSED_TOGETHER}.items()}
        return {**refused, **WORK, **WORK_ALONE}[self.name]()

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {
            "item": ParamSpec("shared", "item", (8,), init_std=0.3),
            "user": ParamSpec("private", "user", (8,), init_std=0.3),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        scores: Tensor = params.module(torch.cat([params["user"], vectors], -1))
        return scores.squeeze(-1)


class OddLoop(Odd):
    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "loop"


class Of(nn.Module):
    """A module of some parts, with a function for its forward."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Recurrent(nn.Module):
    """A recurrent layer over the numbers, one at a time."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.last(self.layer(x.unsqueeze(-1))[0][:, -1])
        return states


def tied() -> nn.Module:
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Linear(16, 1))


def used_twice() -> nn.Module:
    layer = nn.Linear(16, 16)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(16, 1))


def lists() -> nn.Module:
    several = nn.ParameterList([torch.randn(16), torch.randn(16)])
    named = nn.ParameterDict({"scale": torch.ones(())})

    def forward(m: Any, x: Tensor) -> Any:
        return ((x @ m.several[0]).tanh() * m.named["scale"] + x @ m.several[1])[:, None]

    return Of(forward, several=several, named=named)


def transformer(dropout: float = 0.0) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout, nn.functional.gelu, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1)
    return nn.Sequential(nn.Unflatten(1, (4, 4)), encoder, nn.Flatten(), nn.Linear(16, 1))


def frozen_half() -> nn.Module:
    base = nn.Linear(16, 16, dtype=torch.bfloat16).requires_grad_(False)

    def forward(m: Any, x: Tensor) -> Any:
        return m.last(m.base(x.to(m.base.weight.dtype)).to(x.dtype))

    return Of(forward, base=base, last=nn.Linear(16, 1))


def shuffled(kind: type[nn.Parameter] | None = None) -> nn.Module:
    module = Of(lambda m, x: m.last(x[:, m.places]), last=nn.Linear(16, 1))
    if kind is None:
        module.register_buffer("places", torch.arange(15, -1, -1))
    else:
        module.places = kind(torch.arange(15, -1, -1), requires_grad=False)
    return module


def counting(m: Any, x: Tensor) -> Any:
    m.count += 1
    return m.last(x)


def counts() -> nn.Module:
    module = Of(counting, last=nn.Linear(16, 1))
    module.register_buffer("count", torch.zeros(()))
    return module


def shrinking(m: Any, x: Tensor) -> Any:
    m.scale.data.mul_(0.9)
    return m.last(x * m.scale)


def embedded(**options: Any) -> nn.Module:
    """The sign of a number taken for an index."""

    def forward(m: Any, x: Tensor) -> Any:
        return m.last(torch.cat([m.table((x[:, 9] < 0).long()), x], 1))

    return Of(forward, table=nn.Embedding(5, 3, **options), last=nn.Linear(19, 1))


def not_finite() -> nn.Module:
    layer = nn.Linear(16, 1)
    nn.init.constant_(layer.weight, torch.nan)
    return layer


def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 4)), nn.Linear(4, 1))


Build = Callable[[], nn.Module]


def dropped_twice() -> nn.Module:
    drop = nn.Dropout(0.1)
    return nn.Sequential(nn.Linear(16, 8), drop, nn.Linear(8, 8), drop, nn.Linear(8, 1))


WORK: dict[str, Build] = {
    "tied": tied,
    "used twice": used_twice,
    "one dropout in two places": dropped_twice,
    "nothing to train": lambda: nn.Sequential(nn.Linear(16, 1)).requires_grad_(False),
    "lists of parameters": lists,
    "a scalar": lambda: Of(lambda m, x: m.by * x.mean(1, True), by=nn.Parameter(torch.ones(()))),
    "float64": lambda: nn.Linear(16, 1, dtype=torch.float64),
    "bfloat16": lambda: nn.Linear(16, 1, dtype=torch.bfloat16),
    "frozen bfloat16": frozen_half,
    "an integer buffer": shuffled,
    "an integer parameter": lambda: shuffled(nn.Parameter),
    "parametrized": lambda: nn.Sequential(
        parametrizations.orthogonal(nn.Linear(16, 16)), nn.Linear(16, 1)
    ),
    "group norm": lambda: nn.Sequential(nn.Linear(16, 8), nn.GroupNorm(2, 8), nn.Linear(8, 1)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 8)), nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(18, 1)
    ),
    "transformer": transformer,
    "embedding": embedded,
}
WORK_ALONE: dict[str, Build] = {
    "LSTM": lambda: Recurrent(nn.LSTM(1, 3, batch_first=True)),
    "GRU": lambda: Recurrent(nn.GRU(1, 3, batch_first=True)),
    "weight norm": weight_norm,
    "padding": lambda: embedded(padding_idx=0),
}
REFUSED: dict[str, tuple[Build, str]] = {
    "wrong output": (lambda: nn.Linear(16, 2), r"score returns .* \(2, 2\); expected .* \(2,\)"),
    "complex": (
        lambda: Of(
            lambda m, x: (x.cfloat() @ m.weight).abs(),
            weight=nn.Parameter(torch.randn(16, 1, dtype=torch.complex64)),
        ),
        "'weight' is torch.complex64; expected a float type",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(1)), "'0.weight' has no size yet; use a layer"),
    "meta": (
        lambda: nn.Linear(16, 1, device="meta"),
        "'weight' has no values; build it on the CPU",
    ),
    "not finite": (not_finite, "'weight' is not finite"),
    "batch norm": (
        lambda: nn.Sequential(nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 1)),
        "'0' is a BatchNorm1d, .*; take LayerNorm or GroupNorm",
    ),
    "spectral norm": (
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(16, 4)), nn.Linear(4, 1)),
        "changes '0.parametrizations.weight.0._u' of the module",
    ),
    "a buffer that counts": (counts, "changes 'count' of the module, which is not sent"),
    "a frozen parameter that shrinks": (
        lambda: Of(
            shrinking,
            last=nn.Linear(16, 1),
            scale=nn.Parameter(torch.ones(16), requires_grad=False),
        ),
        "changes 'scale' of the module, which is not sent",
    ),
    "dropout of attention": (
        lambda: transformer(0.1),
        "'1.layers.0.self_attn' is a MultiheadAttention with dropout 0.1, .* dropout to 0",
    ),
    "dropout of a layer": (
        lambda: nn.Sequential(nn.AlphaDropout(0.1), nn.Linear(16, 1)),
        "'0' is a AlphaDropout, which no seed of a run decides; use torch.nn.Dropout",
    ),
    "dropout by function": (
        lambda: Of(lambda m, x: m.last(nn.functional.dropout(x)), last=nn.Linear(16, 1)),
        "uses torch's random numbers, .* torch.nn.Dropout of the module",
    ),
    "sparse gradients": (lambda: embedded(sparse=True), "'table.weight' is sparse"),
    "bounded norm": (lambda: embedded(max_norm=1), "changes what it is given"),
    "checkpointing": (
        lambda: Of(
            lambda m, x: m.last(checkpoint(m.first, x, use_reentrant=False)),
            first=nn.Linear(16, 16),
            last=nn.Linear(16, 1),
        ),
        "while gradients are formed, .* gradient checkpointing",
    ),
    "an item table": (
        lambda: nn.Linear(16, 58),
        "'weight' has a row for each of the 58 items; decl",
    ),
    "no gradients": (
        lambda: Of(lambda m, x: m.last(x).detach(), last=nn.Linear(16, 1)),
        "score depends on no parameter by operations of torch",
    ),
    "a name of params": (
        lambda: Of(lambda m, x: x, item=nn.Parameter(torch.ones(16))),
        "both have 'i",
    ),
    "a name with a slash": (
        lambda: nn.ModuleDict({"a/b": nn.Linear(16, 1)}),
        "a name, text without",
    ),
}
REFUSED_TOGETHER: dict[str, tuple[Build, str]] = {
    "LSTM": (WORK_ALONE["LSTM"], "vmap cannot compute it .*lstm.*; declare execution = 'loop'"),
    "GRU": (WORK_ALONE["GRU"], "vmap cannot compute it .*gru.*; declare execution = 'loop'"),
    "weight norm": (weight_norm, "vmap cannot compute it .*performance drop.*_weight_norm"),
    "padding": (WORK_ALONE["padding"], "vmap trains .* padding"),
    "by value": (
        lambda: Of(lambda m, x: m.last(x) if x.sum() > 0 else -m.last(x), last=nn.Linear(16, 1)),
        "vmap cannot compute it .*control flow.*; declare execution = 'loop'",
    ),
    "over pairs": (
        lambda: nn.Sequential(nn.Linear(16, 1), nn.Softmax(0)),
        "its score differs by .* side by side; let the score of a pair use no other pair",
    ),
}


class Pictured(Odd):
    """A feature with several rows of numbers for each item."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {**super().params(catalogue), "image": ParamSpec("frozen", "item", (2, 8))}

    def build(self, catalogue: Catalogue) -> nn.Module:
        return nn.Linear(16, 8)

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        vectors: Tensor = params["item"] + params.module(params["image"].flatten(1))
        return vectors

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        return (params["user"] * vectors).sum(-1)


class OfUsers(Pictured):
    """Item vectors that are not the same for all users."""

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        return params["item"] * params["user"]


class OfClients(Pictured):
    """Likewise, by a layer that each client has its own of."""

    def scope(self, name: str) -> Literal["shared", "private"]:
        return "private" if name == "bias" else "shared"


class Halved(Odd):
    """A layer of all clients and one of each client's own; one that nothing uses."""

    def build(self, catalogue: Catalogue) -> nn.Module:
        parts = {"both": nn.Linear(16, 4), "own": nn.Linear(4, 1), "none": nn.Linear(3, 3)}
        return nn.ModuleDict(parts)

    def scope(self, name: str) -> Literal["shared", "private"]:
        return "private" if name.startswith("own") else "shared"

    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        both = params.module.both(torch.cat([params["user"], vectors], -1))
        scores: Tensor = params.module.own(torch.tanh(both))
        return scores.squeeze(-1)


class Misnamed(Halved):
    def scope(self, name: str) -> Literal["shared", "private"]:
        return "frozen"  # type: ignore[return-value]


@pytest.mark.parametrize(
    "model",
    [Odd(name=name) for name in WORK]
    + [OddLoop(name=name) for name in [*WORK_ALONE, "tied", "transformer"]]
    + [Pictured()],
    ids=str,
)
def test_what_works_keeps_the_contracts(model: Model) -> None:
    every_value_is_trained(model)
    clients_are_computed_as_if_alone(model)
    if model.execution == "vmap":
        together_is_one_by_one(model)


@pytest.mark.parametrize(
    ("model", "says"),
    [(Odd(name=name), says) for name, (_, says) in {**REFUSED, **REFUSED_TOGETHER}.items()]
    + [(OddLoop(name=name), says) for name, (_, says) in REFUSED.items()]
    + [
        (OfUsers(), "item_vectors uses 'user', which is private; .* use it in score"),
        (OfClients(), "item_vectors uses 'bias', which is private; .* use it in score"),
        (Misnamed(), r"scope\('both.weight'\) returned 'frozen', expected 'shared' or 'private'"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_in_one_line(model: Model, says: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch, about complex numbers
        with pytest.raises(ConfigError, match=says) as error:
            Trial.of(model)
    assert str(error.value).startswith(f"model {type(model).__name__}: ")
    assert "\n" not in str(error.value)


def test_a_parameter_of_a_module_may_be_private_and_one_without_use_is_named() -> None:
    task = Trial.of(Halved()).task
    assert {n for n in task.stored_specs() if n.startswith(("both", "own"))} == {
        "own.weight",
        "own.bias",
    }
    assert task.specs()["own.weight"].axis == "client"
    assert {line.split("'")[1] for line in task.untrained()} == {"none.weight", "none.bias"}
    failed = {name for verdict, name, _ in check(Halved()) if verdict == "failed"}
    assert len(failed) == 1, "what no score depends on"
