"""The personalization of the guide keeps the contracts."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedrec.testing import check

GUIDE = Path(__file__).parents[4] / "docs" / "personalization.md"


def test_the_example_of_the_guide_keeps_the_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    module: Any = ModuleType("pulled")
    monkeypatch.setitem(sys.modules, "pulled", module)
    exec(compile(source, "pulled", "exec"), module.__dict__)
    verdicts = [(what, why) for verdict, what, why in check(module.Pulled()) if verdict == "failed"]
    assert not verdicts
