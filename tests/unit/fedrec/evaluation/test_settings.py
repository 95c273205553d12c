"""Users that a metric tells nothing about are counted, in each part."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError
from fedrec.evaluation.evaluate import evaluate
from fedrec.evaluation.metrics import parse_metric
from fedrec.evaluation.ranking import PARTS
from fedrec.evaluation.settings import Evaluate, cutoff_warnings
from fedrec.ragged import Ragged
from fedrec.types import Split
from tests.planted import ragged
from tests.rankings import World, worlds

NDCG5 = (parse_metric("ndcg@5"), parse_metric("mrr"), parse_metric("coverage@5"))


def split_of(n_items: int, train: Ragged, valid: Ragged, test: Ragged) -> Split:
    n = np.arange(len(train), dtype=np.int64)
    clients = Ragged(np.arange(len(train) + 1, dtype=np.int64), n)
    ids, items = n.astype(str), np.arange(n_items).astype(str)
    return Split(n_items, train, valid, test, clients, None, None, ids, items)


@pytest.mark.parametrize("labels", [["ndcg@5"], ["ndcg@5", "hit_rate@5"], ["ndcg@5", "ndcg@7"]])
def test_few_items_left_are_one_warning_for_all_cut_offs_and_parts(labels: list[str]) -> None:
    train, valid, test = ([[0, 1, 2], [0]], [[3], [1]], [[4], [2]])
    split = split_of(9, ragged(train), ragged(valid), ragged(test))
    metrics = (*map(parse_metric, labels), parse_metric("mrr"), parse_metric("coverage@5"))
    (line,) = cutoff_warnings(metrics, split, "clean")
    few, k = (2, 7) if "ndcg@7" in labels else (1, 5)
    assert line.startswith(f"{', '.join(labels)}: {few} of 2 users have at most {k} items left")


def test_enough_items_are_no_warning() -> None:
    split = split_of(30, ragged([[0]]), ragged([[1]]), ragged([[2]]))
    assert cutoff_warnings(NDCG5, split, "clean") == []


def test_users_without_held_out_items_and_with_nothing_else_are_counted() -> None:
    split = split_of(3, ragged([[0], [0, 1]]), ragged([[1], []]), ragged([[2], [2]]))
    lines = cutoff_warnings((parse_metric("mrr"),), split, "clean")
    assert lines == [
        "1 of 2 users have no validation items; the means leave them out",
        "2 of 2 users have nothing but held-out items left to rank in validation or test, so "
        "every metric is perfect for them",
    ]


def test_a_hundred_sampled_candidates_fill_a_list_of_a_hundred() -> None:
    split = split_of(500, ragged([[0]]), ragged([[1]]), ragged([[2]]))
    metrics = (parse_metric("hit_rate@100"),)
    assert len(cutoff_warnings(metrics, split, "legacy")) == 1
    assert cutoff_warnings(metrics, split, "clean") == []


@settings(deadline=None, max_examples=40)
@given(world=worlds, k=st.integers(1, 25))
def test_who_is_counted_has_all_held_out_items_in_every_list(world: World, k: int) -> None:
    shard = world.shard()
    metrics = (parse_metric(f"recall@{k}"),)
    worst = np.zeros((shard.n_users, world.n_items), np.float32)
    evaluation = evaluate(shard, lambda rows: {"mixed": worst[rows]}, metrics)
    split = split_of(world.n_items, world.train, world.valid, world.test)
    lines = cutoff_warnings(metrics, split, "clean")
    parts = [evaluation.values["mixed"][part][:, 0] == 1.0 for part in PARTS]
    said = [line for line in lines if line.startswith("recall")]
    assert (int(said[0].split()[1]) if said else 0) == np.count_nonzero(np.any(parts, axis=0))


@pytest.mark.parametrize("labels", [("ndcg@10", "mrr", "ndcg@10"), ("ndcg@10", "ndcg@010")])
def test_a_metric_that_is_given_twice_is_an_error(labels: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="'ndcg@10' is given twice"):
        Evaluate(metrics=labels)
