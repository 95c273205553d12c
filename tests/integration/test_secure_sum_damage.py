"""Messages of a secure sum that are damaged on their way."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import EngineError
from fedrec.flower import records
from fedrec.flower.sum_records import KeyReply, MaskReply, RevealReply, ShareReply
from fedrec.secure_sum.vector import VectorLayout
from tests.faulty_grid import Damage
from tests.integration.test_faults import cut_off, run_with, shared
from tests.integration.test_secure_sum_faults import (
    EXCHANGES,
    SECURE,
    STEPS,
    lines,
    without_fault,
    without_node,
)

__all__ = ["without_fault", "without_node"]

REPLIES: tuple[type[Any], ...] = (KeyReply, ShareReply, MaskReply, RevealReply)


def flipped(step: int, name: str) -> Damage:
    """Damage a byte of each row of an array of a reply."""

    def damage(content: RecordDict) -> RecordDict:
        reply = records.decode(content, REPLIES[step - 1])
        (value,) = reply.groups.values()
        bytes_ = getattr(value, name).copy()
        bytes_[..., -1] ^= 4
        object.__setattr__(value, name, bytes_)
        return records.encode(reply)

    return damage


def changed(step: int, change: Callable[[Any], Any]) -> Damage:
    """Change a reply to another that can be read."""

    def damage(content: RecordDict) -> RecordDict:
        return records.encode(change(records.decode(content, REPLIES[step - 1])))

    return damage


def of_group(step: int, change: Callable[[Any], dict[str, Any]]) -> Damage:
    """Change what a reply holds of the group of all clients."""
    return changed(
        step, lambda reply: replace(reply, groups={0: replace(v := reply.groups[0], **change(v))})
    )


def of_layout(change: Callable[[VectorLayout], dict[str, Any]]) -> Damage:
    return changed(3, lambda reply: replace(reply, layout=replace(v := reply.layout, **change(v))))


def replayed(content: RecordDict, kept: list[RecordDict]) -> RecordDict:
    kept.append(content)
    return kept[0]


DAMAGES: Mapping[str, tuple[int, Damage, str]] = {
    **{f"{name} cut off": (k, cut_off, "holds no") for k, name in enumerate(EXCHANGES, 1)},
    **{f"{n} empty": (k, lambda _: RecordDict(), "holds no") for k, n in enumerate(EXCHANGES, 1)},
    "keys of fewer clients": (
        1,
        of_group(
            1,
            lambda public: {
                "keys": public.keys.take(public.keys.clients[1:]),
                "commitments": public.commitments[1:],
            },
        ),
        "keys of other clients",
    ),
    "keys of another attempt": (
        1,
        of_group(1, lambda public: {"session": replace(public.session, attempt=9)}),
        "attempt 9, expected",
    ),
    "a share less": (
        2,
        of_group(2, lambda v: {n: getattr(v, n)[1:] for n in ("senders", "receivers", "sealed")}),
        "shares for other clients than the neighbours of each",
    ),
    "a revealed share less": (
        4,
        of_group(4, lambda v: {n: getattr(v, n)[1:] for n in ("holders", "owners", "shares")}),
        "shares of other clients than the neighbours of each",
    ),
    "no group": (3, changed(3, lambda reply: replace(reply, groups={})), "of other groups"),
    "no layout": (3, changed(3, lambda reply: replace(reply, layout=None)), "without a layout"),
    "bytes of a plain update": (
        3,
        changed(3, lambda reply: replace(reply, trained=replace(reply.trained, uploaded=1))),
        "updates that are not masked",
    ),
    "another scale": (
        3,
        of_layout(lambda v: {"scale": {name: k - 1 for name, k in v.scale.items()}}),
        "a vector in another scale",
    ),
    "no scale": (3, of_layout(lambda _: {"scale": {}}), "a vector without scales"),
    "no metrics": (3, of_layout(lambda _: {"metrics": ()}), "a vector without metrics"),
    "another shape": (
        3,
        of_layout(lambda _: {"tables": {"item": (30, 7)}}),
        "other parameters than clients send",
    ),
    "a number more": (
        3,
        of_layout(lambda v: {"extras": ("steps",)}),
        "a vector of other numbers",
    ),
    "a masked vector is damaged": (3, flipped(3, "words"), "a masked vector that was damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_reply_that_is_damaged_counts_as_none(
    name: str, without_fault: dict[str, Any], without_node: dict[str, Any], tmp_path: Path
) -> None:
    step, damage, said = DAMAGES[name]
    came = run_with(tmp_path / "run", {(STEPS + step, 2): damage}, SECURE)
    assert shared(came) == shared(without_fault if step == STEPS else without_node)
    (line,) = lines(tmp_path / "run")
    assert "node 2" in line
    assert said in line


GARBLED: Mapping[str, tuple[int, str, str]] = {
    "a share that is sealed": (2, "sealed", r"cannot open the shares of client"),
    "a share that is revealed": (4, "shares", r"do not give its secret back"),
}


@pytest.mark.parametrize("name", GARBLED)
def test_a_garbled_share_fails_the_round_which_is_tried_again(
    name: str, without_fault: dict[str, Any], tmp_path: Path
) -> None:
    step, array, _ = GARBLED[name]
    faults = {(STEPS + step, node): flipped(step, array) for node in (1, 2, 3)}
    came = run_with(tmp_path / "run", faults, {**SECURE, "retries": 1})
    assert shared(came) == shared(without_fault)
    assert [record["attempts"] for record in came["log"]] == [1, 2, 1, 1]


@pytest.mark.parametrize("name", GARBLED)
def test_a_share_that_is_always_garbled_stops_the_run_with_a_line(
    name: str, tmp_path: Path
) -> None:
    step, array, said = GARBLED[name]
    numbers = range(step, 3 * STEPS + step)
    faults = {(number, node): flipped_if(step, array) for number in numbers for node in (1, 2, 3)}
    with pytest.raises(EngineError, match=rf"failed in 3 attempts .*{said}") as caught:
        run_with(tmp_path / "run", faults, {**SECURE, "retries": 2})
    assert "\n" not in str(caught.value)


def flipped_if(step: int, name: str) -> Damage:
    """Damage replies of an exchange, and of no other."""

    def damage(content: RecordDict) -> RecordDict | None:
        is_meant = f'["{REPLIES[step - 1].__name__}"' in str(content.config_records["rest"]["json"])
        return flipped(step, name)(content) if is_meant else content

    return damage


def test_replies_of_an_earlier_round_are_refused(
    without_node: dict[str, Any], tmp_path: Path
) -> None:
    for step in (1, 2, 3):
        kept = list[RecordDict]()

        def replay(content: RecordDict, kept: list[RecordDict] = kept) -> RecordDict:
            return replayed(content, kept)

        out = tmp_path / str(step)
        came = run_with(out, {(step, 2): replay, (STEPS + step, 2): replay}, SECURE)
        assert shared(came) == shared(without_node)
        assert "the answer to another request" in lines(out)[0]


def damaged(seed: int) -> Damage:
    """Change, cut out or add some bytes of an array or of the text of a reply."""

    def damage(content: RecordDict) -> RecordDict:
        rng = np.random.default_rng(seed)
        arrays = dict(content.array_records["arrays"])
        text = str(content.config_records["rest"]["json"]).encode()
        name = rng.choice([*sorted(arrays), ""])
        array = arrays.get(name)
        before = text if array is None else array.data
        at, cut, added = rng.integers(len(before)), *rng.integers(0, 3, 2)
        after = before[:at] + rng.bytes(added) + before[at + cut :]
        if array is None:
            text = after
        else:
            arrays[name] = Array(array.dtype, array.shape, array.stype, after)
        rest = ConfigRecord({"json": text.decode(errors="replace")})
        return RecordDict({"arrays": ArrayRecord(arrays), "rest": rest})

    return damage


@settings(max_examples=20, deadline=None)
@given(step=st.integers(1, STEPS), seed=st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore::Warning")  # of numpy's reader, about headers
def test_no_damage_gives_another_sum(
    tmp_path_factory: pytest.TempPathFactory,
    without_fault: dict[str, Any],
    without_node: dict[str, Any],
    step: int,
    seed: int,
) -> None:
    """A reply that is damaged counts as it was or as none, or the run stops with a line."""
    out = tmp_path_factory.mktemp("damaged") / "run"
    try:
        came = run_with(out, {(STEPS + step, 2): damaged(seed)}, SECURE)
    except EngineError as error:
        assert str(error).startswith("round 2: the secure sum failed in 1 attempts")
        assert "\n" not in str(error)
        return
    assert came["digest"] in (without_fault["digest"], without_node["digest"])
