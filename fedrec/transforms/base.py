"""What a transform is: it changes a client's update on its way to the server.

An experiment lists its transforms in order, and they compose with any strategy. `on_update` runs on
the node, before updates are summed; `on_aggregate` runs on the server, before the strategy applies
the sum.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError, did_you_mean
from fedrec.plugins import Plugin
from fedrec.ragged import Ragged
from fedrec.types import Params, ParamSpec, Split


class Transform(Plugin):
    """Base of all transforms; by itself it changes nothing.

    Attributes:
        stage: 0 if it changes values, 1 if it sends fewer numbers, 2 if it narrows their type.
            Stages follow each other, with at most one transform of stage 1 and one of stage 2.
    """

    stage: ClassVar[Literal[0, 1, 2]] = 0

    @classmethod
    def overrides(cls, *methods: str) -> bool:
        """Return whether it has a method of its own among some; what is not needed is left out."""
        return any(getattr(cls, name) is not getattr(Transform, name) for name in methods)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Check the stage, and refuse two methods that do the same."""
        if cls.stage not in (0, 1, 2):
            raise ConfigError(f"transform {cls.__qualname__}: expected stage = 0, 1 or 2")
        if cls.overrides("on_update") and cls.overrides("remembering"):
            raise ConfigError(
                f"transform {cls.__qualname__}: defines on_update and remembering; remembering "
                "alone is called where it is defined"
            )

    @model_validator(mode="after")
    def _acts(self) -> Self:
        """Refuse a transform without effect, as one is whose method is misspelt."""
        acting, hints = self.acting, ""
        if not self.overrides(*acting):
            for name, method in vars(type(self)).items():
                hint = did_you_mean(name, acting) if callable(method) else ""
                hints += f"; it defines {name}{hint}" if "did you mean" in hint else ""
            expected = f"expected a method {' or '.join(acting)} of its own"
            raise ConfigError(f"transform {type(self).__qualname__}: {expected}{hints}")
        return self

    @property
    def acting(self) -> tuple[str, ...]:
        """The methods of which one, or more, must be its own."""
        return ("on_data", "on_update", "remembering", "on_aggregate")

    @property
    def remembers(self) -> bool:
        """Whether clients remember something of it from round to round."""
        return self.overrides("memory")

    @property
    def sees_updates(self) -> bool:
        """Whether it looks at clients' updates one by one."""
        return self.overrides("on_update", "remembering")

    def on_data(self, split: Split, context: RoundContext) -> Split:
        """Return the data that clients have; once, before the run.

        Args:
            split: The prepared data.
            context: The run, before its first round; the clients are those of ``split``.
        """
        return split

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        """Return the updates that some clients send; runs on the node.

        What becomes of a client must not depend on the others.

        Args:
            batch: The updates, as the transforms before this one left them.
            context: The round.
        """
        return batch

    def memory(self, specs: Mapping[str, ParamSpec]) -> Mapping[str, ParamSpec]:
        """Return private parameters that `remembering` uses; none by default.

        Args:
            specs: Of the shared parameters.

        Returns:
            Per name, a private parameter of the axis ``client`` or ``positive``, not trained.
        """
        return {}

    def remembering(
        self, batch: UpdateBatch, memory: Params, positives: Ragged, context: RoundContext
    ) -> tuple[UpdateBatch, Params]:
        """Return the updates that some clients send, and what they remember; runs on the node.

        It is called in place of `on_update`.

        Args:
            batch: The updates, as the transforms before this one left them.
            memory: Per name of `memory`, float32: of the axis ``client`` [c, *shape], of the axis
                ``positive`` [n_positives, *shape], client after client.
            positives: One row per client: its train items, the owners of ``positive``.
            context: The round.
        """
        return self.on_update(batch, context), memory

    def on_aggregate(self, aggregate: Aggregate, context: RoundContext) -> Aggregate:
        """Return the aggregate that the strategy applies; runs on the server, for each group."""
        return aggregate
