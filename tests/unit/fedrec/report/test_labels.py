"""Labels are unique, short, and name only what differs."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedrec.report.labels import labels

VALUES = {
    "model.name": ("mf", "neumf", "sasrec"),
    "personalization.name": ("none", "plgc"),
    "strategy.name": ("fedavg", "fedadam"),
    "train.momentum": (0.1, 0.01, 1.0),
    "train.weight_decay": (0.02,),
    "train.negatives": (1, 4),
    "data.path": ("a/very/long/folder/of/ratings-2024.csv", "a/very/long/folder/ratings-2023.csv"),
}


def named(configs: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(labels(configs, [False] * len(configs)))


def test_every_combination_of_six_settings_has_its_own_label() -> None:
    configs = [dict(zip(VALUES, each, strict=True)) for each in itertools.product(*VALUES.values())]
    texts = named(configs)
    assert len(set(texts)) == len(configs)
    assert not any("…" in text or "decay" in text for text in texts)


@given(st.sets(st.tuples(*(st.sampled_from(v) for v in VALUES.values())), min_size=2, max_size=43))
def test_labels_are_unique_and_silent_about_what_is_equal(rows: set[tuple[Any, ...]]) -> None:
    configs = [dict(zip(VALUES, row, strict=True)) for row in sorted(rows, key=repr)]
    texts = named(configs)
    assert len(set(texts)) == len(texts)
    words = [word for text in texts for word in text.replace(", ", " + ").split(" + ")]
    for at, (key, values) in enumerate(VALUES.items()):
        if len({row[at] for row in rows}) == 1:
            assert not {str(value) for value in values} & {*words}
            assert not any(word.startswith(key.rpartition(".")[2] + "=") for word in words)


def test_what_differs_is_named_shortly_the_model_first() -> None:
    base = {"model.name": "mf", "personalization.name": "none", "data.name": "a", "train.lr": 1.0}
    plgc = base | {"personalization.name": "plgc"}
    assert named([base, plgc]) == ("no personalization", "plgc")
    assert named([base, plgc | {"model.name": "neumf"}]) == ("mf", "neumf + plgc")
    assert named([base, base | {"train.lr": 0.5, "data.name": "b"}]) == ("lr=1.0", "lr=0.5")
    assert named([base, base | {"data.name": "b"}]) == ("data=a", "data=b")


def test_what_most_share_need_not_be_said() -> None:
    base = {"model.name": "mf", "train.negatives": 4, "train.epochs": 1, "rounds.cohort": "all"}
    knn = {"model.name": "neumf"}
    changed = [base, base | {"train.negatives": 8}, base | {"train.epochs": 3}, base | knn]
    assert named(changed) == ("mf", "mf, negatives=8", "mf, epochs=3", "neumf")
    assert named(changed[:3]) == ("", "negatives=8", "epochs=3")


def test_a_key_is_as_long_as_it_takes_to_be_unambiguous() -> None:
    base = {"train.optimizers.item.lr": 1.0, "train.optimizers.private.lr": 0.02}
    assert named([base, base | {"train.optimizers.item.lr": 0.5}]) == ("item.lr=1.0", "item.lr=0.5")


def test_of_a_long_path_the_end_that_differs_is_enough() -> None:
    one = {"data.path": "~/a/long/folder/ratings.csv"}
    other = {"data.path": "~/another/long/folder/2/ratings.csv"}
    assert named([one, other]) == ("path=folder/ratings.csv", "path=2/ratings.csv")


def test_a_baseline_is_not_named_by_settings_it_does_not_use() -> None:
    configs = [
        {"model.name": "itemknn", "strategy.name": "fedavg"},
        {"model.name": "mf", "strategy.name": "fedavg"},
        {"model.name": "mf", "strategy.name": "fedadam"},
    ]
    texts = labels(configs, [True, False, False])
    assert texts == ["itemknn", "mf + fedavg", "mf + fedadam"]
