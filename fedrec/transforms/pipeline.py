"""A list of transforms, in which each has its own memory."""

from collections.abc import Mapping, Sequence

from fedrec.aggregation.returned import checked_update
from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import check_shapes
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
    """
    return {
        f"{_prefix(place)}{name}": spec
        for place, transform in enumerate(transforms)
        for name, spec in transform.memory(specs).items()
    }


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
                returned = transform.on_update(batch, context)
                batch = checked_update(f"{where}: on_update", returned, batch, context)
            continue
        prefix = _prefix(place)
        memory = {n.removeprefix(prefix): v for n, v in private.items() if n.startswith(prefix)}
        sent, after = transform.remembering(batch, memory, positives, context)
        batch = checked_update(f"{where}: remembering", sent, batch, context)
        check_shapes(f"{where}: memory", after, memory)
        changed |= {f"{prefix}{name}": value for name, value in after.items()}
    return batch, changed


def _prefix(place: int) -> str:
    return f"transforms/{place}/"
