"""docs/configuration.md says what the code declares, and says something of every option."""

import importlib.util
from pathlib import Path
from typing import Any


def made(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("page", root / "docs/make_configuration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_docstrings_say(root: Path) -> None:
    page = made(root)
    assert page.PATH.read_text(encoding="utf-8") == page.text(), (
        "run python docs/make_configuration.py"
    )


def test_every_option_is_described(root: Path) -> None:
    rows = made(root).text().splitlines()
    assert [row for row in rows if row.startswith("| `") and row.endswith("|  |")] == []
