"""A list of transforms, in which each has its own memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedrec.aggregation.returned import checked_update, pair_of
from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError, check_shapes, kind_of
from fedrec.plugins import shown
from fedrec.ragged import Ragged
from fedrec.transforms.base import Transform
from fedrec.types import FloatArray, Params, ParamSpec


def memory_specs(
    transforms: Sequence[Transform], specs: Mapping[str, ParamSpec]
) -> dict[str, ParamSpec]:
    """Return the private parameters of all transforms, by ``transforms/PLACE/NAME``.

    Args:
        transforms: The list.
        specs: Of the shared parameters.

    Raises:
        ConfigError: If one is no private parameter of the axis ``client`` or ``positive``, or is
            trained.
    """
    memory = {}
    for place, transform in enumerate(transforms):
        where = f"transform {type(transform).__name__}: memory returned"
        returned: Any = transform.memory(specs)
        if not isinstance(returned, Mapping):
            raise ConfigError(f"{where} {kind_of(returned)}, expected a ParamSpec by name")
        for name, spec in returned.items():
            fits = isinstance(spec, ParamSpec) and (spec.scope, spec.trainable) == (
                "private",
                False,
            )
            if not fits or spec.axis not in ("client", "positive"):
                raise ConfigError(
                    f"{where} {shown(spec)} as '{name}', expected a private ParamSpec of the axis "
                    "client or positive, with trainable=False"
                )
            memory[f"{_prefix(place)}{name}"] = spec
    return memory


def transformed(
    transforms: Sequence[Transform],
    batch: UpdateBatch,
    private: Params,
    positives: Ragged,
    context: RoundContext,
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Return updates after all transforms, and the private parameters that changed.

    Args:
        transforms: The list.
        batch: The updates of some clients.
        private: The private parameters of these clients, with those of `memory_specs`.
        positives: One row per client: its train items.
        context: The round.
    """
    changed: dict[str, FloatArray] = {}
    for place, transform in enumerate(transforms):
        where = f"transform {type(transform).__name__}"
        if not transform.overrides("remembering"):
            if transform.sees_updates:
                updates: Any = transform.on_update(batch, context)
                batch = checked_update(f"{where}: on_update", updates, batch, context)
            continue
        prefix = _prefix(place)
        memory = {n.removeprefix(prefix): v for n, v in private.items() if n.startswith(prefix)}
        returned: Any = transform.remembering(batch, memory, positives, context)
        sent, after = pair_of(f"{where}: remembering", returned, "(updates, memory)")
        batch = checked_update(f"{where}: remembering", sent, batch, context)
        check_shapes(f"{where}: memory", after, memory)
        changed |= {f"{prefix}{name}": value for name, value in after.items()}
    return batch, changed


def _prefix(place: int) -> str:
    return f"transforms/{place}/"
