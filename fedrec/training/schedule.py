"""How the rates of local training change from round to round."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fedrec.errors import ConfigError
from fedrec.plugins import Section


class Schedule(Section):
    r"""What all rates of local training are multiplied by in each round of the run.

    Warm-up, stable, decay: with warm-up :math:`W`, the end of the stable phase :math:`S` and the
    end of annealing :math:`T`, all in rounds,

    .. math:: \eta(t) = \begin{cases} t / W & t < W \\ 1 & W \le t \le S \\
              g\big(\tfrac{t - S}{T - S}\big) & S < t \le T \\ g(1) & t > T \end{cases}

    It needs no more than the number of the round, so clients that are seldom in a cohort follow it
    too. The server's rates are not concerned. Reference: hu2024minicpm, section 4.

    Args:
        name: ``constant``: 1 in every round; or ``wsd``.
        warmup: Rounds until the full rate, W.
        stable: Rounds at the full rate, S - W.
        anneal: Rounds in which the rate falls, T - S.
        shape: How it falls: ``linear``, :math:`g(x) = 1 - (1 - f) x`, or ``exponential``,
            :math:`g(x) = f^x`.
        floor: f, where it ends. At 0 the last round changes nothing.
    """

    name: Literal["constant", "wsd"] = "constant"
    warmup: int = Field(0, ge=0)
    stable: int = Field(0, ge=0)
    anneal: int = Field(0, ge=0)
    shape: Literal["linear", "exponential"] = "linear"
    floor: float = Field(0.1, ge=0, le=1)

    def factor(self, round: int) -> float:
        """Return the factor of a round; the first is 1."""
        if self.name == "constant":
            return 1.0
        if round < self.warmup:
            return round / self.warmup
        into = round - self.warmup - self.stable
        if into <= 0 or self.anneal == 0:
            return 1.0
        share = min(into / self.anneal, 1.0)
        if self.shape == "exponential":
            return float(self.floor**share)
        return 1.0 - (1.0 - self.floor) * share

    def check(self, rounds: int) -> None:
        """Check that a run is long enough.

        Raises:
            ConfigError: If it ends before the schedule does.
        """
        parts = {name: getattr(self, name) for name in ("warmup", "stable", "anneal")}
        total = sum(parts.values())
        if self.name == "wsd" and total > rounds:
            terms = " + ".join(f"{name} {value}" for name, value in parts.items())
            raise ConfigError(
                f"train.schedule: {terms} are {total} rounds, and rounds.count is {rounds}; "
                "shorten a phase or raise rounds.count"
            )

    def without_effect(self, run: Any) -> list[str]:
        """Say what belongs to another schedule, or to a phase without rounds."""
        annealing = ("shape", "floor")
        if self.name == "constant":
            return self.unused("it belongs to wsd", "warmup", "stable", "anneal", *annealing)
        if self.warmup < 2 and self.anneal == 0:
            return ["name: wsd has no effect: every round is at the full rate"]
        lines = [] if self.anneal > 0 else self.unused("nothing is annealed", *annealing)
        if self.warmup == 1:
            lines.append("warmup: 1 has no effect: the first round is at the full rate")
        return lines

    @model_validator(mode="after")
    def _can_fall(self) -> Self:
        if self.shape == "exponential" and self.floor == 0:
            raise ValueError("floor: expected more than 0 for shape: exponential, got 0")
        return self
