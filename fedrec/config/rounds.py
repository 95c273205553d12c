"""The section ``rounds``: how long a run is, and with whom."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fedrec.config.fields import PluginField
from fedrec.devices.base import Devices
from fedrec.errors import ConfigError
from fedrec.plugins import Count, Plugin, Section, lookup, name_of

COHORT = {"cohort_size", "cohort_fraction"}
"""Options of which one excludes the other."""


class Rounds(Section):
    """How long, and with whom.

    Args:
        count: rounds at most.
        cohort_size: clients in a round, or ``all``.
        cohort_fraction: the same as a share of all clients; excludes ``cohort_size``.
        patience: Stop after this many evaluations in a row without a better validation metric;
            None: never. As long as the best is not 5 % above popularity, where most models pause,
            an evaluation whose training loss has fallen by 1 % starts the count anew.
        max_failures: clients that may fail in a round before the run stops.
        largest_change: by how much a client may change a shared value in a round at most; the
            server refuses the reply of a node with larger sums. None: by anything finite.
        selection: how the clients of a round are chosen.
        plan: when clients are asked, and which replies are waited for.
        devices: how fast the devices of simulated clients are, and when they are online; rounds
            then take virtual time. None: no virtual clock runs.
    """

    count: int = Field(100, ge=1)
    cohort_size: Count | Literal["all"] = "all"
    cohort_fraction: float | None = Field(None, gt=0, le=1)
    patience: int | None = Field(15, ge=1)
    max_failures: int = Field(0, ge=0)
    largest_change: float | None = Field(None, gt=0)
    selection: Annotated[Plugin, PluginField("selections", "uniform")] = Field(
        default_factory=lambda: lookup("selections", "uniform")(), validate_default=True
    )
    plan: Annotated[Plugin, PluginField("plans", "synchronous")] = Field(
        default_factory=lambda: lookup("plans", "synchronous")(), validate_default=True
    )
    devices: Annotated[Devices | None, PluginField("devices")] = None

    def clients_of(self, n_clients: int) -> int:
        """Return how many clients take part in a round: as many as the plan says, if it does.

        Args:
            n_clients: All clients of the run.

        Raises:
            ConfigError: If more are asked for than there are.
        """
        if self._of_plan is not None:
            return self._of_plan
        if self.cohort_fraction is not None:
            return max(1, round(self.cohort_fraction * n_clients))
        if self.cohort_size == "all":
            return n_clients
        if self.cohort_size > n_clients:
            raise ConfigError(
                f"rounds.cohort_size: {self.cohort_size} is more than the {n_clients} clients; "
                "lower it or write 'all'"
            )
        return self.cohort_size

    def without_effect(self, run: Any) -> list[str]:
        """Say that the run is too short for its patience, or that a share of 1 is all."""
        lines = []
        evaluations = -(-self.count // run.experiment.evaluate.every)
        due = "1 evaluation" if evaluations == 1 else f"{evaluations} evaluations"
        default = type(self).model_fields["patience"].default
        if self.patience not in (None, default) and self.patience >= evaluations:
            lines.append(
                f"patience: {self.patience} has no effect: rounds.count {self.count} leads to "
                f"only {due} (evaluate.every: {run.experiment.evaluate.every})"
            )
        if self._of_plan is not None:
            name = name_of("plans", self.plan)
            lines += self.unused(f"rounds.plan {name} says how many clients train", *sorted(COHORT))
        elif self.cohort_fraction == 1:
            lines.append("cohort_fraction: 1 has no effect: all clients take part by default")
        return lines

    @property
    def _of_plan(self) -> int | None:
        """How many clients take part in a round, where the plan says it; see `RoundPlan`."""
        size: int | None = getattr(self.plan, "clients_of_round", None)
        return size

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if self.cohort_fraction is not None and self.cohort_size != "all":
            raise ValueError("cohort_fraction: excludes cohort_size; give one of them")
        return self
