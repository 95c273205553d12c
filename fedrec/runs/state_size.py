"""How much clients and server will remember, known before a run begins."""

from collections import Counter
from math import prod
from typing import Any, TypeAlias

import numpy as np

from fedrec.errors import ConfigError
from fedrec.plugins import name_of
from fedrec.training.draws import Layout
from fedrec.training.task import ClientTask
from fedrec.transforms.pipeline import memory_specs
from fedrec.types import Shard, Split

Strategy: TypeAlias = Any
"""A `strategies.Strategy`; this package lies below those that define strategies."""

_WAYS_OUT = {
    "the client rule": "take a client rule without memory: none, proximal or fednova",
    "the transforms": "leave out the transform that remembers",
    "the personalization": "take another personalization, or a smaller model",
    "the optimizer of private values": "write train.optimizers.private.name: sgd",
    "the model": "take a smaller model",
}


def state_bytes(task: ClientTask, shard: Shard) -> Counter[str]:
    """Return the bytes of the private state of some clients, by the part that it belongs to.

    Args:
        task: What they train.
        shard: The clients.
    """
    shared = task.shared_specs()
    rule, transforms = task.client_rule.private(shared), memory_specs(task.transforms, shared)
    personal = {*task.personalization_params(), *task.copies()}
    owners, sizes = Layout.of(task, shard).offsets, Counter[str]()
    for name, spec in task.stored_specs().items():
        owner = "the optimizer of private values"
        if name in rule:
            owner = "the client rule"
        elif name in transforms:
            owner = "the transforms"
        elif name in task.private():
            owner = "the personalization" if name in personal else "the model"
        of_owner = np.dtype(spec.dtype).itemsize * prod(spec.shape)
        sizes[owner] += int(owners[str(spec.axis)][-1]) * of_owner
    return sizes


def check_state(task: ClientTask, shard: Shard, limit: int) -> None:
    """Check that what all clients will remember is within ``engine.state_limit``, in bytes.

    Raises:
        ConfigError: Naming the size, the part that most of it belongs to, and what to do.
    """
    sizes = state_bytes(task, shard)
    if sizes.total() > limit:
        owner, most = sizes.most_common(1)[0]
        raise ConfigError(
            f"engine.state_limit: clients would remember {_shown(sizes.total())}, more than "
            f"{_shown(limit)}; {_shown(most)} of it for {owner}: {_WAYS_OUT[owner]}, or raise the "
            "limit"
        )


def check_server_state(strategy: Strategy, task: ClientTask, split: Split, limit: int) -> None:
    """Check that what the server will remember is within ``engine.state_limit``, in bytes.

    Raises:
        ConfigError: Naming the size, and what to do; or if it is no strategy.
    """
    if not hasattr(strategy, "state_bytes"):
        raise ConfigError("strategy: is not a strategy of fedrec (subclass strategies.Strategy)")
    shapes = {
        name: ((split.n_items,) if spec.axis == "item" else ()) + spec.shape
        for name, spec in task.shared_specs().items()
    }
    size = strategy.state_bytes(shapes, split.n_clients)
    if size > limit:
        raise ConfigError(
            f"engine.state_limit: the server would remember {_shown(size)} for the strategy "
            f"{name_of('strategies', strategy)}, more than {_shown(limit)}; take another strategy, "
            "or a smaller model, or raise the limit"
        )


def _shown(size: int) -> str:
    """Return a number of bytes as text, such as ``1.5 GiB``."""
    for unit, factor in (("KiB", 2**10), ("MiB", 2**20)):
        if size < 1000 * factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 2**30:.1f} GiB"
