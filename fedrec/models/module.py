"""Modules of torch inside client models: built once, called with each client's own values."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, did_you_mean
from fedrec.types import ParamSpec


class Network:
    """The module that a client model built, for all clients of a process.

    Its trainable parameters are only the initial values: each call takes a client's own. What is
    frozen stays in the module. `torch.nn.Dropout` is replaced by `DrawnDropout`.

    Args:
        module: As `fedrec.models.base.Model.build` returned it.
        catalogue: The items.
        source: Names the model in errors.
    """

    def __init__(self, module: nn.Module, catalogue: Catalogue, source: str) -> None:
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
        self.specs: Mapping[str, ParamSpec] = {
            name: ParamSpec(
                "shared", None, tuple(value.shape), values=value.detach().float().numpy().copy()
            )
            for name, value in trained.items()
        }

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

    def module(self, *args: Any, **options: Any) -> Any:
        """Call the module that `fedrec.models.base.Model.build` returned, with these values.

        Args:
            args: Of its ``forward``.
            options: Likewise.
        """
        if self._network is None:
            raise ConfigError("params.module: build() returned no module")
        network = self._network
        values = {name: self[name] for name in network.specs}
        network.draws.key, training = self._key, self._key is not None
        if network.module.training != training:
            network.module.train(training)
        try:
            return functional_call(network.module, values, args, options)
        finally:
            network.draws.key = None

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
