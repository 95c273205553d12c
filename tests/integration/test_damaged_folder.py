"""A run folder from which something is missing, or in which something is damaged or mixed up."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedrec
from fedrec import report
from fedrec.errors import FedRecError, RunFolderError
from tests.integration.stopped_runs import ROUNDS, go, go_on, outcome, stopped

MORE = f"rounds.count={ROUNDS + 2}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run, one stopped after round 2, one of another seed, and one without result."""
    folder = tmp_path_factory.mktemp("runs")
    stopped(folder / "early", 2)
    go(folder / "run")
    go(folder / "other", seed=7)
    shutil.copytree(folder / "run", folder / "killed")
    (folder / "killed" / "result.json").unlink()
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


def content(folder: Path) -> dict[Path, bytes]:
    """All but what nodes are told anew at each start."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.json"]
    return {path: path.read_bytes() for path in files}


def replaced(target: Path, source: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


@pytest.mark.parametrize("of", ["early", "other"])
@pytest.mark.parametrize("what", ["state", "state/node-000", "state/node-001/user.npy"])
def test_a_run_does_not_continue_from_another_state(
    of: str, what: str, runs: Path, copied: Callable[[str], Path]
) -> None:
    folder = copied("run")
    replaced(folder / what, runs / of / what)
    before = content(folder)
    with pytest.raises(RunFolderError, match=r"state/node-00[01]") as caught:
        go_on(folder, MORE)
    assert "--overwrite" in str(caught.value) and "\n" not in str(caught.value)
    if of == "early" and what != "state/node-001/user.npy":
        assert "is of round 2, the checkpoint needs round 4" in str(caught.value)
    assert content(folder) == before


@pytest.mark.parametrize("what", ["state", "state/node-001", "state/node-000/user.npy"])
def test_a_run_does_not_continue_without_its_state(
    what: str, copied: Callable[[str], Path]
) -> None:
    folder = copied("run")
    path = folder / what
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = content(folder)
    with pytest.raises(RunFolderError, match=r"state/node-00[01].* is missing.*--overwrite"):
        go_on(folder, MORE)
    assert content(folder) == before


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "flipped":
        at = len(content) * 2 // 3
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    elif how != "deleted":
        path.write_bytes({"truncated": content[: len(content) // 2], "emptied": b""}[how])


DAMAGES = ("deleted", "truncated", "emptied", "a folder", "a pipe", "flipped")


def report_of(folder: Path) -> str:
    return report.markdown([folder])


USES: tuple[Callable[[Path], Any], ...] = (
    lambda folder: go_on(folder, MORE),
    report_of,
    lambda folder: fedrec.load(folder).recommend("0"),
    outcome,
)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("state", ["run", "killed"])
def test_every_damaged_file_is_named(
    how: str, state: str, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each file in turn: whoever needs it names it, the others are not disturbed.

    Every file meets every damage and every use, but not every pair of both.
    """
    complete = copied(state)
    files = sorted(path.relative_to(complete) for path in content(complete))
    expected = outcome(complete)
    for number, name in enumerate(files, start=DAMAGES.index(how)):
        use = USES[number % len(USES)]
        folder = Path(shutil.copytree(complete, tmp_path / "damaged"))
        damage(folder / name, how)
        before = content(folder)
        try:
            used = use(folder)
        except FedRecError as error:
            said = str(error)
            assert "\n" not in said and len(said) < 600, said
            named = ("local", "state/node-") if len(name.parts) > 1 else (name.name,)
            assert any(part in said for part in named), f"{name} {how}: {said}"
            assert content(folder) == before, name
        else:
            if use is report_of and name.suffix in (".parquet", ".safetensors") and state == "run":
                shown = name.name not in ("checkpoint.safetensors",)
                assert (str(name) in used.replace("\\", "")) == shown, name
            if use is outcome and name.name != "result.json":
                assert used == expected, name
        shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["model.safetensors", "per_user.parquet", "local"])
def test_a_file_of_another_run_is_not_passed_off(
    what: str, runs: Path, copied: Callable[[str], Path]
) -> None:
    folder = copied("run")
    replaced(folder / what, runs / "other" / what)
    with pytest.raises(RunFolderError, match=f"{what}.*not the file that this run wrote"):
        outcome(folder)
        fedrec.load(folder).recommend("0")


def test_a_folder_of_an_earlier_version_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("run")
    config = folder / "config.yaml"
    config.write_text(config.read_text("utf-8").partition("\n")[2], "utf-8")
    for use in (go_on, lambda f: report.markdown([f]), lambda f: fedrec.load(f).recommend("0")):
        with pytest.raises(RunFolderError, match=r"config\.yaml: .*another version of fedrec"):
            use(folder)
