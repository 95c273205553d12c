"""How a round is run: when clients are asked, and which replies are waited for; one file each."""

from collections.abc import Mapping

from server.plans.base import (
    Exchange,
    LostNode,
    PlanServer,
    Replies,
    Reply,
    RoundPlan,
    RoundResult,
    Steps,
)
from server.plans.synchronous import Synchronous

__all__ = [
    "PLANS",
    "Exchange",
    "LostNode",
    "PlanServer",
    "Replies",
    "Reply",
    "RoundPlan",
    "RoundResult",
    "Steps",
    "Synchronous",
]

PLANS: Mapping[str, type[RoundPlan]] = {
    "synchronous": Synchronous,
}
