"""What the numba kernel computes, and what is left to torch and numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedrec.models.mf import MatrixFactorization
from fedrec.models.pfedrec import PFedRec
from fedrec.personalization.base import NoPersonalization
from fedrec.personalization.finetune import FineTune
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.transforms.base import Transform
from fedrec.transforms.clip import Clip
from fedrec.transforms.quantize import Float16, Int8

if TYPE_CHECKING:
    from fedrec.training.task import ClientTask


def not_in_numba(task: ClientTask) -> str:
    """Return what the numba kernel does not cover; empty if it covers all of a task."""
    form, model, train = task.personalization, task.model, task.train
    private = train.optimizers.private
    # What trains at the end alone has the rounds of no personalization.
    forms = (NoPersonalization, PLGC, *([FineTune] if task.when == "round" else []))
    covered = {
        f"the model {type(model).__name__}": type(model) in (MatrixFactorization, PFedRec),
        f"the personalization {type(form).__name__}": type(form) in forms,
        "the strategy's client rule": task.client_rule.plain,
        "whole tables of each client's own": task.payload != "client" or not task.needs_tables,
        "a strategy that asks for the loss before training, with several steps": not task.measures
        or (train.local_epochs == 1 and train.batch_size == "full"),
        "clients of several users": not task.several_users,
        f"train.loss: {train.loss}": train.loss == "bce",
        "train.negative_sampling: popularity": train.negative_sampling == "uniform",
        "train.optimizers.item but plain sgd": train.optimizers.item.plain,
        "train.optimizers.private but adam and plain sgd": private.plain
        or (private.name == "adam" and private.weight_decay == 0),
        "train.clip_norm": train.clip_norm is None,
        "train.micro_batch": train.micro_batch is None,
    }
    if isinstance(form, PLGC):
        covered |= {
            f"personalization.branch: {form.branch}": form.branch == "similarity",
            f"personalization.balance: {form.balance}": form.balance in ("alignment", "fixed"),
            f"personalization.beta: {form.beta}": form.beta == 2,
            f"personalization.view: {form.view}": form.view != "cross",
            f"personalization.extra_rows: {form.extra_rows}": form.extra_rows == 0,
        }
    return next((what for what, is_covered in covered.items() if not is_covered), "")


def transforms_in_numba(transforms: Sequence[Transform]) -> bool:
    """Return whether the kernel does all that some transforms do, to rows that it sums."""
    return all(type(transform) in (Clip, Float16, Int8) for transform in transforms)
