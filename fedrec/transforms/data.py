"""The data as one transform changes it."""

from typing import Any

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.data.altered import of_clients
from fedrec.errors import ConfigError, kind_of
from fedrec.ragged import Ragged
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.base import Transform
from fedrec.types import Split


def changed_data(transform: Transform, split: Split, context: RoundContext) -> Split:
    """Return `fedrec.transforms.base.Transform.on_data`.

    Args:
        transform: The transform.
        split: The data before.
        context: The run, before its first round.

    Raises:
        ConfigError: If it is no split of the same items, in which honest clients have their users
            and what is held out of them; or the clients that an attack adds are not its attackers.
    """
    where = f"transform {type(transform).__name__}: on_data"
    returned: Any = transform.on_data(split, context)
    if not isinstance(returned, Split):
        raise ConfigError(f"{where} returned {kind_of(returned)}, expected a Split")
    n, more = split.n_clients, returned.n_clients - split.n_clients
    if more < 0:
        raise ConfigError(f"{where} returned {returned.n_clients} clients, expected {n} or more")
    honest = np.arange(n)
    if isinstance(transform, Attack):
        attackers = transform.attackers_in(returned, context.seed)
        if transform.added and not np.array_equal(attackers, n + np.arange(more)):
            raise ConfigError(
                f"{where} added {more} clients, but attackers names {len(attackers)}; with added = "
                "True they are the clients that on_data adds"
            )
        honest = np.setdiff1d(honest, attackers)
    before, after = (of_clients(each, honest) for each in (split, returned))
    for name in ("n_items", "n_cold", "item_ids", "user_ids", "clients", "valid", "test"):
        pairs = zip(*(_arrays(getattr(each, name)) for each in (before, after)), strict=True)
        if not all(np.array_equal(one, other) for one, other in pairs):
            raise ConfigError(f"{where} changed {name} of honest users, expected what it was given")
    return returned


def _arrays(value: Any) -> tuple[Any, ...]:
    return (value.offsets, value.values) if isinstance(value, Ragged) else (value,)
