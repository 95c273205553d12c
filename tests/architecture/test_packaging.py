"""The documents, the packaging and the CI script say the same."""

import os
import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from packaging.requirements import Requirement

import fedrec.cli.commands
from fedrec.flower import processes
from fedrec.flower.processes import OUTER_PACKAGES, check_packages
from fedrec.plugins import table

MACHINE = re.compile(r"(?<![\w.~$}])/(?:home|media|mnt|opt|private|root|srv|Users|work)/\w")


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_readme_has_the_two_commands_and_ci_runs_the_second(root: Path) -> None:
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv .venv")]
    first = [line for line in commands if "fedrec run experiments/ml-100k/plgc-mf.yaml" in line]
    second = [line for line in commands if "bin/pytest" in line]
    assert len(first) == 1, "the README has one line that sets up and runs PLGC"
    assert len(second) == 1, "the README has one line that sets up and passes the tests"
    assert "-c constraints.txt -e '.[sim]'" in first[0]
    assert "-c constraints.txt -e '.[all,test]'" in second[0]
    script = (root / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -m 1 -E '([^']+)' README.md", script)
    assert pattern is not None, "the CI script takes the command from the README"
    assert [line for line in lines if re.search(pattern[1], line)][:1] == second


def test_constraints_pin_what_the_project_needs(root: Path, project: dict[str, Any]) -> None:
    """Each named distribution at one version that its requirement accepts, and nothing local."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonical(pin.name): str(pin.specifier) for pin in pins}
    assert all(re.fullmatch(r"==[^+*]+", version) for version in versions.values())
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *(r for each in extras.values() for r in each)]
    for requirement in (Requirement(text) for text in needed):
        name = canonical(requirement.name)
        if name != "fedrec":
            assert requirement.specifier.contains(versions[name].removeprefix("==")), name


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_command_line_knows_which_extra_brings_what(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    for package in fedrec.cli.commands.SIMULATION:
        wanted = "flwr[simulation]" if package == "ray" else package
        assert any(text.startswith(wanted) for text in extras["sim"]), package


def test_every_folder_of_experiments_ships(root: Path, project: dict[str, Any]) -> None:
    shipped = project["tool"]["setuptools"]["data-files"]
    for folder in {path.parent for path in (root / "experiments").rglob("*.yaml")}:
        inside = folder.relative_to(root).as_posix()
        assert shipped.get(f"share/fedrec/{inside}") == [f"{inside}/*.yaml"], inside


def test_shipped_experiments_can_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREC_DATA", os.environ.get("FEDREC_DATA") or str(root))
    from fedrec.config.experiment import load_experiment

    paths = sorted((root / "experiments").rglob("*.yaml"))
    assert paths
    for path in paths:
        experiment = load_experiment(path)
        assert load_experiment_again(experiment.to_yaml()) == experiment, path.name


def load_experiment_again(text: str) -> object:
    import yaml

    from fedrec.config.experiment import load_experiment

    return load_experiment(yaml.safe_load(text))


def test_entry_points_lead_to_what_they_name(project: dict[str, Any]) -> None:
    declared = project["project"]["entry-points"]
    for group, entries in declared.items():
        installed = {entry.name: entry for entry in entry_points(group=group)}
        for name, reference in entries.items():
            assert installed[name].value == reference, "install again: pip install -e ."
            installed[name].load()
    assert {"fedavg", "fedadam"} <= set(table("strategies"))
    components = project["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": processes.SERVER, "clientapp": processes.CLIENT}
    assert isinstance(resolve_name(processes.SERVER), ServerApp)
    assert isinstance(resolve_name(processes.CLIENT), ClientApp)


def test_packages_lie_beside_each_other(project: dict[str, Any]) -> None:
    check_packages()
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert set(include) == {
        pattern for name in ("fedrec", *OUTER_PACKAGES) for pattern in (name, f"{name}.*")
    }


def test_license_is_the_one_that_is_declared(root: Path, project: dict[str, Any]) -> None:
    text = (root / "LICENSE").read_text(encoding="utf-8")
    assert project["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_version_is_the_same_everywhere(root: Path, project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changes or f"## [{version}]" in changes


def test_no_file_names_a_path_of_one_machine(root: Path, tracked_files: list[Path]) -> None:
    faults = []
    for path in tracked_files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        faults += [f"{path.relative_to(root)}: {match[0]}" for match in MACHINE.finditer(text)]
    assert faults == []
