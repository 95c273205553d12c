from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config.yaml import override, read_document
from fedrec.errors import ConfigError

keys = st.text("abcdefgh", min_size=1, max_size=3)
documents = st.dictionaries(
    keys,
    st.recursive(
        st.none() | st.integers(0, 9) | st.text("xyz ", max_size=4),
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
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert read_document(path) == document


def test_a_merged_key_may_be_replaced_and_a_written_one_may_not(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("base: &b {x: 1, y: 2}\nown: {<<: *b, x: 3}\n", encoding="utf-8")
    assert read_document(path)["own"] == {"x": 3, "y": 2}
    path.write_text("own:\n  x: 1\n  y: 2\n  x: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 4: .*'x' stands in line 2 already"):
        read_document(path)


def test_the_file_of_nearly_that_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "plgc-mf.yaml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no such file \(did you mean '.*plgc-mf\.yaml'\?\)"):
        read_document(tmp_path / "plgc_mf.yaml")


@given(document=documents, path=st.lists(keys, min_size=1, max_size=3), value=st.integers(0, 9))
def test_one_value_changes_and_no_other(
    document: dict[str, Any], path: list[str], value: int
) -> None:
    before = yaml.safe_dump(document)
    try:
        changed: Any = override(document, f"{'.'.join(path)}={value}")
    except ConfigError as error:
        assert "is a value, it has no keys" in str(error)
        return
    finally:
        assert yaml.safe_dump(document) == before
    for key in path:
        changed = changed[key]
    assert changed == value


def test_a_name_alone_becomes_a_section() -> None:
    assert override({"model": "mf"}, "model.d=3") == {"model": {"name": "mf", "d": 3}}
