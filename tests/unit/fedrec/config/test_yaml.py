import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config.yaml import dump_yaml, parse_yaml, read_document, with_overrides
from fedrec.errors import ConfigError

keys = st.text("abcdefgh", min_size=1, max_size=3)
texts = st.text("xyze0123_:.-+o ~<#'", max_size=5) | st.sampled_from(["yes", "1e3", "0o7", "1:30"])
documents = st.dictionaries(
    keys,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
        lambda below: st.dictionaries(keys, below, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(document=documents)
def test_what_yaml_writes_is_read_back(
    document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(dump_yaml(document), encoding="utf-8")
    assert read_document(path) == document
    assert yaml.safe_load(dump_yaml(document)) == document, "a reader of YAML 1.1 agrees"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("+3", 3),
        ("0x10", 16),
        ("0o10", 8),
        ("1e-3", 1e-3),
        ("1e3", 1e3),
        (".5", 0.5),
        ("-5.", -5.0),
        ("-.INF", -math.inf),
        ("TRUE", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("!!int '7'", 7),
        ("!!str 7", "7"),
    ],
)
def test_plain_values_are_those_of_the_core_schema(text: str, value: object) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["1:30", "1_000", "yes", "no", "on", "off", "y", "2024-01-01", "0b1", "tRue", "1e", "="]
)
def test_what_only_yaml_1_1_converts_stays_text(text: str) -> None:
    assert parse_yaml(text) == text


def test_utf_16_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text("data: ü", encoding=encoding)
        assert read_document(path) == {"data": "ü"}


def test_a_merged_key_may_be_replaced_and_a_written_one_may_not(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("base: &b {x: 1, y: 2}\nown: {<<: *b, x: 3}\n", encoding="utf-8")
    assert read_document(path)["own"] == {"x": 3, "y": 2}
    path.write_text("own:\n  x: 1\n  y: 2\n  x: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 4: .*'x' stands in line 2 already"):
        read_document(path)


def test_the_file_of_nearly_that_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "plgc-mf.yaml").write_text("", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"no such file or directory \(did you mean '.*plgc-mf\.yaml'\?\)"
    ):
        read_document(tmp_path / "plgc_mf.yaml")


@given(document=documents, path=st.lists(keys, min_size=1, max_size=3), value=st.integers(0, 9))
def test_one_value_changes_and_no_other(
    document: dict[str, Any], path: list[str], value: int
) -> None:
    before = yaml.safe_dump(document)
    try:
        changed: Any = with_overrides(document, {".".join(path): value})
    except ConfigError as error:
        assert "is a value, it has no keys" in str(error)
        return
    finally:
        assert yaml.safe_dump(document) == before
    for key in path:
        changed = changed[key]
    assert changed == value


def test_a_name_alone_becomes_a_section() -> None:
    assert with_overrides({"model": "mf"}, {"model.d": 3}) == {"model": {"name": "mf", "d": 3}}
