"""How a round is run: when clients are asked, and which replies are waited for; one file each."""

from collections.abc import Mapping

from server.plans.asynchronous import Asynchronous
from server.plans.base import (
    Answer,
    Answers,
    Exchange,
    LostNode,
    PlanServer,
    Question,
    Replies,
    Reply,
    RoundPlan,
    RoundResult,
    Steps,
)
from server.plans.secure_sum import SecureSum
from server.plans.synchronous import Synchronous

__all__ = [
    "PLANS",
    "Answer",
    "Answers",
    "Asynchronous",
    "Exchange",
    "LostNode",
    "PlanServer",
    "Question",
    "Replies",
    "Reply",
    "RoundPlan",
    "RoundResult",
    "SecureSum",
    "Steps",
    "Synchronous",
]

PLANS: Mapping[str, type[RoundPlan]] = {
    "asynchronous": Asynchronous,
    "secure-sum": SecureSum,
    "synchronous": Synchronous,
}
