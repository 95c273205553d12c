"""How a round is run: when clients are asked, and which replies are waited for; one file each."""

from collections.abc import Mapping

from server.plans.asynchronous import Asynchronous
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
    "Asynchronous",
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
    "asynchronous": Asynchronous,
    "synchronous": Synchronous,
}
