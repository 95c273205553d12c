import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data.ids import hash_ids, index_ids, mix, mix_seed
from fedrec.types import IntArray, TextArray

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)


def test_mix_gives_the_published_values_of_splitmix64() -> None:
    states = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert mix(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def indexed(ids: list[str]) -> tuple[IntArray, TextArray]:
    """Give ids in the order in which they first come to `index_ids`."""
    table = list(dict.fromkeys(ids))
    codes = np.array([table.index(each) for each in ids], np.int64)
    return index_ids(codes, table)


@given(st.lists(texts, min_size=1))
def test_indices_do_not_depend_on_the_order_of_rows(ids: list[str]) -> None:
    order = np.random.default_rng(0).permutation(len(ids))
    indices, table = indexed(ids)
    shuffled, same = indexed([ids[row] for row in order])
    assert table[indices].tolist() == ids
    assert table.tolist() == same.tolist()
    assert shuffled.tolist() == indices[order].tolist()


@given(st.lists(st.integers(-(10**25), 10**25), min_size=1))
def test_whole_numbers_sort_as_numbers(numbers: list[int]) -> None:
    table = indexed([str(number) for number in numbers])[1]
    assert table.tolist() == [str(number) for number in sorted(set(numbers))]


@pytest.mark.parametrize(
    ("ids", "table"),
    [
        (["10", "9", "007", "7"], ["7", "007", "9", "10"]),
        (["10", "9", "a"], ["10", "9", "a"]),
        (["--1", "2"], ["--1", "2"]),
        (["+10", "9"], ["+10", "9"]),
        (["²", "3"], ["3", "²"]),
        (["9" * 30, "10"], ["10", "9" * 30]),
    ],
)
def test_only_whole_numbers_sort_as_numbers(ids: list[str], table: list[str]) -> None:
    assert indexed(ids)[1].tolist() == table


def test_ids_that_no_row_names_are_left_out() -> None:
    codes, table = index_ids(np.array([2, 0, 2]), ["b", "unused", "a"])
    assert (codes.tolist(), table.tolist()) == ([0, 1, 0], ["a", "b"])


@given(st.lists(texts, min_size=1, unique=True), st.integers(0, 20))
def test_a_hash_depends_on_the_id_alone(ids: list[str], wider: int) -> None:
    together = hash_ids(np.array(ids, np.str_))
    alone = [int(hash_ids(np.array([each], f"<U{len(each) + wider + 1}"))[0]) for each in ids]
    assert together.tolist() == alone
    assert len(set(alone)) == len(ids)


def test_the_seed_and_the_order_of_columns_matter() -> None:
    a, b = hash_ids(np.array(["a", "x"])), hash_ids(np.array(["b", "x"]))
    assert mix_seed(0, a, b)[0] != mix_seed(1, a, b)[0]
    assert mix_seed(0, a, b)[0] != mix_seed(0, b, a)[0]
    assert mix_seed(0, a, b)[1] == mix_seed(0, b, a)[1]
