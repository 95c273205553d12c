"""What a transform returns and declares is checked, and the message names the transform."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError, NumericError
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.base import Transform
from fedrec.transforms.pipeline import memory_specs
from fedrec.transforms.top_k import TopK
from fedrec.types import ParamSpec
from tests.unit.fedrec.transforms.test_transforms import SPECS, apply, batch_of


def same(_: Any, given: Any, *__: Any) -> Any:
    """A method that returns what it is given."""
    return given


class Returning(Transform):
    """Returns what the test says."""

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> Any:
        return RETURNS["change"](batch)


RETURNS: dict[str, Any] = {}


def with_item(batch: UpdateBatch, **changes: Any) -> UpdateBatch:
    """The updates with another block of the table ``item``."""
    return replace(batch, tables={**batch.tables, "item": replace(batch.tables["item"], **changes)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: None, "returned None, expected the updates of the same clients"),
        (lambda b: b.take(np.array([1, 0])), "returned updates of other clients, or in another"),
        (
            lambda b: replace(b, tables={"item": b.tables["item"]}),
            "returned nothing, expected 'bias'",
        ),
        (lambda b: replace(b, metrics={}), "expected 'loss of clients'"),
        (
            lambda b: with_item(b, values=b.tables["item"].values[:, :2]),
            r"'item' float32 \[2\], ex",
        ),
        (
            lambda b: with_item(b, values=b.tables["item"].values.astype(np.float64)),
            r"'item' float64 \[4\], expected 'item' float32 \[4\]",
        ),
        (lambda b: with_item(b, values=[1.0]), "'item' list, expected 'item' float32"),
        (
            lambda b: with_item(b, scale=np.ones(5)),
            r"'scale of item' float64 \[5\], expected 'scale of item' float16 \[5\]",
        ),
        (lambda b: with_item(b, values=b.tables["item"].values * np.float32(np.nan)), "'item' .*f"),
        (
            lambda b: replace(b, dense={"head": b.dense["head"] + np.float32(np.inf)}),
            "a 'head' that is not finite though",
        ),
        (lambda b: replace(b, weight=b.weight[:1]), r"'weight of clients' floats \[1\], expected"),
        (lambda b: replace(b, weight=None), r"'weight of clients' None, expected"),
        (lambda b: replace(b, weight=-b.weight), "a weight that is no finite number from 0"),
        (lambda b: replace(b, weight=b.weight * np.nan), "a weight that is no finite number from"),
        (
            lambda b: with_item(b, ids=b.tables["item"].ids + 5),
            "rows of 'item' that are not 9 items",
        ),
        (lambda b: with_item(b, ids=0 * b.tables["item"].ids), "sorted, each once"),
        (lambda b: with_item(b, ids=b.tables["item"].ids[:-1]), "rows of 'item' that are not"),
    ],
)
def test_updates_of_other_clients_or_shapes_are_refused(change: Any, said: str) -> None:
    RETURNS["change"] = change
    with pytest.raises(ConfigError, match=rf"^transform Returning: on_update .*{said}"):
        apply([Returning()], batch_of([[0, 2, 5], [1, 6]], 0))


def test_values_may_be_narrower_and_as_wide_as_they_were() -> None:
    batch = batch_of([[0, 2, 5], [1, 6]], 0)
    values = batch.tables["item"].values.astype(np.float64)
    for dtype in (np.float64, np.float32, np.float16):
        RETURNS["change"] = lambda b, dtype=dtype: with_item(b, values=values.astype(dtype))
        after, _ = apply([Returning()], with_item(batch, values=values))
        assert after.tables["item"].values.dtype == dtype


def test_who_diverges_is_not_the_transform() -> None:
    batch = batch_of([[0, 2, 5], [1, 6]], 0)
    RETURNS["change"] = lambda b: b
    with np.errstate(invalid="ignore"):
        diverged = with_item(batch, values=batch.tables["item"].values * np.float32(np.inf))
    apply([Returning()], diverged)
    RETURNS["change"] = lambda b: with_item(b, values=b.tables["item"].values * np.float32(1e30))
    large = with_item(batch, values=batch.tables["item"].values * np.float32(1e20))
    with (
        np.errstate(over="ignore"),
        pytest.raises(NumericError, match=r"^transform Returning: on_"),
    ):
        apply([Returning()], large)


def odd(base: type[Transform], **attributes: Any) -> Transform:
    kind: Any = type(base)
    instance: Transform = kind("Odd", (base,), {"__module__": __name__, **attributes})()
    return instance


@pytest.mark.parametrize(
    ("base", "attributes", "said"),
    [
        (Transform, {}, "expected a method on_data or on_update or remembering or on_aggregate of"),
        (
            Transform,
            {"on_updates": same},
            r"; it defines on_updates \(did you mean 'on_update'\?\)$",
        ),
        (Transform, {"memory": same}, "expected a method .* of its own$"),
        (Attack, {}, "expected a method on_data or rewrite of its own$"),
        (Attack, {"attackers": same}, "expected a method on_data or rewrite of its own$"),
        (Attack, {"rewite": same}, r"; it defines rewite \(did you mean 'rewrite'\?\)$"),
        (Attack, {"added": True, "rewrite": same}, "expected a method on_data of its own$"),
        (Returning, {"stage": "late"}, "expected stage = 0, 1 or 2$"),
        (Returning, {"stage": 7}, "expected stage = 0, 1 or 2$"),
    ],
)
def test_a_transform_without_effect_or_place_is_refused(
    base: type[Transform], attributes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"^transform Odd: .*{said}"):
        odd(base, **attributes)


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (None, "None, expected a ParamSpec by name"),
        ({"x": 3}, "3 as 'x', expected a private ParamSpec"),
        ({"x": ParamSpec("shared", None, (2,), trainable=False)}, r"ParamSpec\(scope='shared'"),
        ({"x": ParamSpec("private", "user", (2,), trainable=False)}, ".*axis='user'"),
        ({"x": ParamSpec("private", "client", (2,))}, ".* as 'x', expected .*trainable=False"),
    ],
)
def test_what_a_transform_cannot_remember_is_refused(memory: Any, said: str) -> None:
    transform = odd(TopK, memory=lambda *_: memory)
    with pytest.raises(ConfigError, match=f"^transform Odd: memory returned {said}"):
        memory_specs([transform], SPECS)


def test_remembering_returns_a_pair() -> None:
    transform = odd(TopK, remembering=lambda _, batch, *__: batch)
    with pytest.raises(ConfigError, match=r"Odd: remembering returned UpdateBatch, expected \(upd"):
        apply([transform], batch_of([[0, 2], [1]], 0))
