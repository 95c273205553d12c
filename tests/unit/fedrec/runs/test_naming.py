from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedrec.runs.naming import default_folder

sets = st.dictionaries(
    st.from_regex(r"[a-d]{1,20}(\.[a-d]{1,20}){0,2}", fullmatch=True), st.text(max_size=60)
)


@given(sets, sets)
def test_other_settings_have_another_folder(one: dict[str, str], two: dict[str, str]) -> None:
    folders = [
        default_folder("mf", [f"{key}={value}" for key, value in each.items()], 0)
        for each in (one, two)
    ]
    stripped = [{key: value.strip() for key, value in each.items()} for each in (one, two)]
    assert (folders[0] == folders[1]) == (stripped[0] == stripped[1])
    for folder in folders:
        assert len(folder.parts) == 2
        assert len(folder.name) < 100
        assert folder.name.isascii()


def test_names_are_readable() -> None:
    assert default_folder("mf", [], 3).as_posix() == "runs/mf-seed3"
    assert default_folder("mf", [], None).as_posix() == "runs/mf"
    several = ["rounds.count=5", "model=neumf", "seed=3", "engine.workers=2"]
    assert default_folder("mf", several, 3).as_posix() == "runs/mf-model=neumf,rounds.count=5-seed3"
