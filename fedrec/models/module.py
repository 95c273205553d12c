"""Modules of torch inside client models: built once, called with each client's own values."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, did_you_mean
from fedrec.types import ParamSpec


class Network:
    """The module that a client model built, for all clients of a process.

    Its trainable parameters are only the initial values: `bind` puts a client's own in their
    places. What is frozen stays in the module. `torch.nn.Dropout` is replaced by `DrawnDropout`.

    Args:
        module: As `fedrec.models.base.Model.build` returned it.
        catalogue: The items.
        source: Names the model in errors.
        scope: From the name of a parameter to its scope, ``shared`` or ``private``.
    """

    def __init__(
        self,
        module: nn.Module,
        catalogue: Catalogue,
        source: str,
        scope: Callable[[str], Literal["shared", "private"]] = lambda _: "shared",
    ) -> None:
        self.draws = Draws()
        self.module = _with_drawn_dropout(module, self.draws)
        # In eval mode torch's transformer layers take kernels that torch.func cannot map.
        torch.backends.mha.set_fastpath_enabled(False)
        for name, layer in module.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
                raise ConfigError(
                    f"{source}: build: '{name}' is a {type(layer).__name__}, whose running "
                    "statistics training changes; take LayerNorm or GroupNorm"
                )
        trained = {n: v for n, v in module.named_parameters() if v.requires_grad}
        for name, value in trained.items():
            if value.dim() > 1 and len(value) == catalogue.n_items:
                raise ConfigError(
                    f"{source}: build: the module's parameter '{name}' has a row for each of the "
                    f"{len(value)} items; declare it in params() with the axis item, and give "
                    "the module the item vectors"
                )
        self.specs = {name: _spec(scope(name), value) for name, value in trained.items()}
        dropouts = [each for each in self.module.modules() if isinstance(each, DrawnDropout)]
        self.drops = any(each.p > 0 for each in dropouts)
        # Parameters that are tied have one name and several places.
        names = {id(value): name for name, value in trained.items()}
        self._places = [
            (layer._parameters, local, names[id(value)])
            for layer in self.module.modules()
            for local, value in layer._parameters.items()
            if id(value) in names
        ]
        self._recurrent = [m for m in self.module.modules() if isinstance(m, nn.RNNBase)]
        self._initial: list[nn.Parameter | None] = []
        self._bound: Mapping[str, Tensor] | None = None
        self._device = "cpu"

    def move(self, device: str) -> None:
        """Move the module to a device, such as ``cuda:0``, unless it is there."""
        if device != self._device:
            self.module.to(device)
            self._device = device

    def bind(self, values: Mapping[str, Tensor], key: Tensor | None) -> None:
        """Give the module's parameters other values until `release`.

        It does what `torch.func.functional_call` does, without its checks at every call, and for
        recurrent layers too.

        Args:
            values: By name.
            key: int64 scalar, what dropout depends on; None: nothing is dropped.
        """
        if self._bound is values:
            return
        if self._bound is None:
            self._initial = [store[local] for store, local, _ in self._places]
        self._fill([values[name] for _, _, name in self._places])
        self._bound, self.draws.key = values, key
        if self.module.training != (key is not None):
            self.module.train(key is not None)

    def release(self) -> None:
        """Give the module's parameters their initial values again."""
        if self._bound is not None:
            self._fill(self._initial)
            self._bound = self.draws.key = None

    @cached_property
    def frozen_hash(self) -> str:
        """Return the SHA-256 of what stays in the module: frozen parameters and kept buffers.

        It is "" where nothing stays. The values are those of the first call.
        """
        state = self.module.state_dict()
        stays = {name: state[name].detach().cpu() for name in sorted({*state} - {*self.specs})}
        content = hashlib.sha256()
        for name, value in stays.items():
            content.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            content.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return content.hexdigest() if stays else ""

    def _fill(self, values: Sequence[Any]) -> None:
        for (store, local, _), value in zip(self._places, values, strict=True):
            store[local] = value
        for layer in self._recurrent:  # They keep a list of their parameters beside.
            layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]


def _spec(scope: Literal["shared", "private"], value: nn.Parameter) -> ParamSpec:
    values = value.detach().float().numpy().copy()
    return ParamSpec(scope, "client" if scope == "private" else None, values.shape, values=values)


class Draws:
    """Where the dropout of a module finds the key of the client that is computed.

    Args:
        key: int64 scalar, of a client's step; None: nothing is dropped.
    """

    def __init__(self) -> None:
        self.key: Tensor | None = None


class ModelParams(dict[str, Tensor]):
    """The parameters that a model computes with, by name.

    Args:
        values: By name.
        network: What the model built, if it did.
        key: int64 scalar, decides what dropout drops; None: nothing.
        item_rows: When ranking: the names of those with a row for each item.
        user_rows: When ranking: the names of those with a row for each user.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        network: Network | None = None,
        key: Tensor | None = None,
        item_rows: Iterable[str] = (),
        user_rows: Iterable[str] = (),
    ) -> None:
        super().__init__(values)
        self._network, self._key = network, key
        self.item_rows, self.user_rows = frozenset(item_rows), frozenset(user_rows)

    def __enter__(self) -> "ModelParams":
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the values that the module was given."""
        if self._network is not None:
            self._network.release()

    def replaced(self, values: Mapping[str, Tensor]) -> "ModelParams":
        """Return the same with other values for some parameters, or with further ones."""
        names = self.item_rows, self.user_rows
        return ModelParams({**self, **values}, self._network, self._key, *names)

    def for_ranking(self, tables: Mapping[str, Tensor], user_rows: Iterable[str]) -> "ModelParams":
        """Return the same with all rows of item tables and features.

        Args:
            tables: By name, float [n_items, *shape].
            user_rows: The names of those with a row for each user.
        """
        names = tables, set(user_rows) & {*self}
        return ModelParams({**self, **tables}, self._network, self._key, *names)

    @property
    def module(self) -> Any:
        """Return the module that `fedrec.models.base.Model.build` returned, with these values.

        Call it, or one of its parts: ``params.module(x)``, ``params.module.tower(x)``.
        """
        if self._network is None:
            raise ConfigError("params.module: build() returned no module")
        self._network.bind(self, self._key)
        return self._network.module

    def __missing__(self, name: str) -> Tensor:
        raise ConfigError(
            f"asks for the parameter '{name}', which params() does not declare"
            f"{did_you_mean(str(name), self)}"
        )


class DrawnDropout(nn.Module):
    """Dropout whose draws depend on seed, round, client and step alone, and on where it stands.

    Args:
        p: Share of the values that are set to 0.
        number: Tells the layers of a module apart.
        draws: Where the key of the client lies.
    """

    def __init__(self, p: float, number: int, draws: Draws) -> None:
        super().__init__()
        self.p, self.number, self.draws = p, number, draws

    def forward(self, x: Tensor) -> Tensor:
        """Return values of which some are 0 and the others larger, float [...]."""
        if self.draws.key is None or self.p == 0:
            return x
        keep = uniform(self.draws.key + self.number, x.shape) >= self.p
        return x * keep / (1 - self.p)


def uniform(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return uniform draws from 0 below 1 that depend on a key and a place alone, float [*shape].

    A place counts from the front, so a larger array begins with the values of a smaller one. The
    finalizer is that of SplitMix64.

    Args:
        key: int64 scalar.
        shape: Of the result.

    Reference: steele2014fast.
    """
    hashed = _mixed(key)
    for size in shape:
        steps = torch.arange(1, size + 1, device=hashed.device) * -0x61C8864680B583EB
        hashed = _mixed(hashed.unsqueeze(-1) + steps)
    return ((hashed >> 40) & 0xFFFFFF) * 2.0**-24


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _with_drawn_dropout(module: nn.Module, draws: Draws) -> nn.Module:
    numbers: Iterator[int] = iter(range(2**20))
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    if type(module) is nn.Dropout:
        return DrawnDropout(module.p, next(numbers), draws)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, DrawnDropout(child.p, next(numbers), draws))
            elif isinstance(child, kinds) and child.p > 0:
                raise ConfigError(f"the module has a {type(child).__name__}; use torch.nn.Dropout")
    return module
