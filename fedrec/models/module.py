"""Modules of torch inside client models: built once, called with each client's own values."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, did_you_mean
from fedrec.models.dropout import DrawnDropout, Draws, with_drawn_dropout
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
        if problem := _problem(module, catalogue.n_items):
            raise ConfigError(f"{source}: build: {problem}")
        # In eval mode torch's transformer layers take kernels that torch.func cannot map.
        torch.backends.mha.set_fastpath_enabled(False)
        self.draws = Draws()
        self.module = with_drawn_dropout(module, self.draws)
        dropouts = [each for each in self.module.modules() if isinstance(each, DrawnDropout)]
        self.drops = any(each.p > 0 for each in dropouts)
        trained = {n: v for n, v in self.module.named_parameters() if v.requires_grad}
        self.specs = {name: _spec(source, name, scope, value) for name, value in trained.items()}
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
        self._bound: ModelParams | None = None
        self._device = "cpu"

    def move(self, device: str) -> None:
        """Move the module to a device, such as ``cuda:0``, unless it is there."""
        if device != self._device:
            self.module.to(device)
            self._device = device

    def bind(self, params: "ModelParams", key: Tensor | None) -> None:
        """Give the module's parameters other values until `release`.

        It does what `torch.func.functional_call` does, without its checks at every call, and for
        recurrent layers too.

        Args:
            params: The values, by name.
            key: int64 scalar, what dropout depends on; None: nothing is dropped.
        """
        if self._bound is params:
            return
        if self._bound is None:
            self._initial = [store[local] for store, local, _ in self._places]
        self._fill([params.of_module(name) for _, _, name in self._places])
        self._bound, self.draws.key = params, key
        if self.module.training != (key is not None):
            self.module.train(key is not None)

    def release(self) -> None:
        """Give the module's parameters their initial values again."""
        if self._bound is not None:
            self._fill(self._initial)
            self._bound = self.draws.key = None

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let the module's parameters be used by nothing, as while gradients are formed."""
        late = (
            "computes with the module while gradients are formed, without a client's values, as "
            "gradient checkpointing does; switch that off"
        )
        self._initial = [store[local] for store, local, _ in self._places]
        self._fill([_Unusable.of(late) for _ in self._places])
        try:
            yield
        finally:
            self._fill(self._initial)

    def constants(self) -> dict[str, Tensor]:
        """Return what training must not change, by name: buffers and frozen parameters."""
        frozen = {n: v for n, v in self.module.named_parameters() if not v.requires_grad}
        return {**frozen, **dict(self.module.named_buffers())}

    @cached_property
    def frozen_hash(self) -> str:
        """Return the SHA-256 of what stays in the module: frozen parameters and kept buffers.

        It is "" where nothing stays. The values are those of the first call.
        """
        state, every = (
            self.module.state_dict(),
            self.module.named_parameters(remove_duplicate=False),
        )
        stays = sorted({*state} - {name for name, value in every if value.requires_grad})
        content = hashlib.sha256()
        for name in stays:
            value = state[name].detach().cpu()
            content.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            content.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return content.hexdigest() if stays else ""

    def _fill(self, values: Sequence[Any]) -> None:
        for (store, local, _), value in zip(self._places, values, strict=True):
            store[local] = value
        for layer in self._recurrent:  # They keep a list of their parameters beside.
            layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]


def _spec(
    source: str, name: str, scope: Callable[[str], Literal["shared", "private"]], value: Tensor
) -> ParamSpec:
    of_name = scope(name)
    if of_name not in ("shared", "private"):
        raise ConfigError(
            f"{source}: scope('{name}') returned {of_name!r}, expected 'shared' or 'private'; "
            "freeze a parameter in build() by requires_grad_(False)"
        )
    values = value.detach().float().numpy().copy()
    return ParamSpec(
        of_name, "client" if of_name == "private" else None, values.shape, values=values
    )


def _problem(module: nn.Module, n_items: int) -> str:
    """Return why a module cannot be trained by clients, and the way out; empty for nothing."""
    other_dropout = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    for name, layer in module.named_modules():
        where = f"'{name}'" if name else "the module"
        layer_is = f"{where} is a {type(layer).__name__}"
        if isinstance(layer, torch.jit.ScriptModule):
            return f"{layer_is}, compiled by torch.jit; return the module itself"
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            return (
                f"{layer_is}, whose statistics are those of whatever pairs are computed together; "
                "take LayerNorm or GroupNorm"
            )
        if isinstance(layer, other_dropout) and layer.p > 0:
            return f"{layer_is}, which no seed of a run decides; use torch.nn.Dropout"
        if isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.dropout > 0:
            return (
                f"{layer_is} with dropout {layer.dropout}, which no seed of a run decides; set "
                "its attribute dropout to 0, and use torch.nn.Dropout between layers"
            )
    for name, value in module.named_parameters():
        if isinstance(value, nn.UninitializedParameter):
            return f"the module's parameter '{name}' has no size yet; use a layer that is not lazy"
        if value.is_meta:
            return f"the module's parameter '{name}' has no values; build it on the CPU"
        if not value.requires_grad:
            continue
        if not value.is_floating_point():
            return f"the module's parameter '{name}' is {value.dtype}; expected a float type"
        if not value.isfinite().all():
            return f"the module's parameter '{name}' is not finite"
        if value.dim() > 1 and len(value) == n_items:
            return (
                f"the module's parameter '{name}' has a row for each of the {n_items} items; "
                "declare it in params() with the axis item, and give the module the item vectors "
                "(if it is none of items, give it another length)"
            )
    return ""


class ModelParams(dict[str, Tensor]):
    """The parameters that a model computes with, by name.

    As a context manager it lets go, at the end, of the values that the module was given.

    Args:
        values: By name.
        network: What the model built, if it did.
        key: int64 scalar, decides what dropout drops; None: nothing.
        item_rows: When ranking: the names of those with a row for each item.
        user_rows: When ranking: the names of those with a row for each user.
        private: For item vectors: the names of those that are left out because they are private.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        network: Network | None = None,
        key: Tensor | None = None,
        item_rows: Iterable[str] = (),
        user_rows: Iterable[str] = (),
        private: Iterable[str] = (),
    ) -> None:
        super().__init__(values)
        self.network, self._key = network, key
        self.item_rows, self.user_rows = frozenset(item_rows), frozenset(user_rows)
        self._private = frozenset(private)

    def __enter__(self) -> "ModelParams":
        return self

    def __exit__(self, *_: object) -> None:
        if self.network is not None:
            self.network.release()

    def replaced(self, values: Mapping[str, Tensor]) -> "ModelParams":
        """Return the same with other values for some parameters, or with further ones."""
        names = self.item_rows, self.user_rows
        return ModelParams({**self, **values}, self.network, self._key, *names)

    def for_ranking(self, tables: Mapping[str, Tensor], user_rows: Iterable[str]) -> "ModelParams":
        """Return the same with all rows of item tables and features.

        Args:
            tables: By name, float [n_items, *shape].
            user_rows: The names of those with a row for each user.
        """
        names = tables, set(user_rows) & {*self}
        return ModelParams({**self, **tables}, self.network, self._key, *names)

    def of_items(self, private: Iterable[str]) -> "ModelParams":
        """Return the same without private parameters, of these names, for item vectors."""
        shared = {name: value for name, value in self.items() if name not in set(private)}
        return ModelParams(shared, self.network, self._key, private=private)

    @property
    def module(self) -> Any:
        """Return the module that `fedrec.models.base.Model.build` returned, with these values.

        Call it, or one of its parts: ``params.module(x)``, ``params.module.tower(x)``. It has
        these values until the method of the model returns; do not keep it.
        """
        if self.network is None:
            raise ConfigError("params.module: build() returned no module")
        self.network.bind(self, self._key)
        return self.network.module

    def of_module(self, name: str) -> Tensor:
        """Return a parameter of the module; one that nothing can use if it is left out."""
        return self[name] if name in self else _Unusable.of(_of_all_users(name))

    def __missing__(self, name: str) -> Tensor:
        if name in self._private:
            raise ConfigError(_of_all_users(name))
        raise ConfigError(
            f"asks for the parameter '{name}', which params() does not declare"
            f"{did_you_mean(str(name), self)}"
        )


def _of_all_users(name: str) -> str:
    return f"uses '{name}', which is private; item vectors are those of all users: use it in score"


class _Unusable(Tensor):
    """A parameter of a module that no operation takes."""

    reason: str

    @classmethod
    def of(cls, reason: str) -> "_Unusable":
        unusable: _Unusable = torch.zeros(0).as_subclass(cls)
        unusable.reason = reason
        return unusable

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = [*args, *(kwargs or {}).values()]
        given += [
            each for several in given if isinstance(several, list | tuple) for each in several
        ]
        raise ConfigError(next(each.reason for each in given if isinstance(each, cls)))
