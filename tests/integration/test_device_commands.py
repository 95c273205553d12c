"""The commands for devices say in one line what is missing, before anything starts."""

from pathlib import Path

import pytest

from fedrec.storage.files import write_arrays
from tests.device_fleet import make_devices, serve
from tests.integration.refusal import Fedrec
from tests.integration.test_devices import OWNERS, experiment_of

PHONES = """
data: {name: csv, path: none.csv, columns: {timestamp: time}}
model: {name: mf, embedding_dim: 8}
train: {backend: torch}
evaluate: {metrics: [ndcg@2]}
"""
ITEMS = "item,title\n" + "".join(f"{n},Film {n}\n" for n in range(6))
LOG = "user,item,time\n" + "".join(f"ann,{n},{n}\n" for n in range(4))


@pytest.fixture
def files(here: Path) -> Path:
    """The working folder of an operator who has an experiment, items, and a device's file."""
    for name, text in (("phones.yaml", PHONES), ("items.csv", ITEMS), ("log.csv", LOG)):
        (here / name).write_text(text, encoding="utf-8")
    return here


def refused(command: Fedrec, *arguments: str) -> str:
    """What a command says that stops with code 2."""
    done = command(*arguments)
    assert done.code == 2, done
    lines = done.err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


def test_certificates_are_made_once(command: Fedrec, here: Path) -> None:
    first = command("certificates", "keys", "--nodes", "2", "--host", "fedrec.example")
    assert first.code == 0 and "wrote 8 files" in first.err
    assert "localhost, 127.0.0.1, fedrec.example" in first.err
    again = command("certificates", "keys", "--nodes", "3", "--host", "fedrec.example")
    assert "wrote 2 files" in again.err
    other = refused(command, "certificates", "keys", "--nodes", "3", "--host", "other.example")
    assert "not for other.example" in other


def test_a_bundle_says_what_it_holds(command: Fedrec, files: Path) -> None:
    done = command("bundle", "phones.yaml", "--items", "items.csv", "--out", "bundle")
    assert done.code == 0 and done.out.startswith("bundle: 6 items, catalogue ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--items: is missing"),
        (("--items", "none.csv"), "none.csv"),
        (("--items", "items.csv", "--set", "data.k_core=5"), "data.k_core"),
        (("--items", "items.csv", "--set", "evaluate.slices=[tail]"), "evaluate.slices"),
        (("--items", "items.csv", "--set", "model=popularity"), "centralised baseline"),
    ],
)
def test_a_bundle_of_what_devices_cannot_run_is_refused(
    command: Fedrec, files: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(command, "bundle", "phones.yaml", "--out", "bundle", *arguments)
    assert not (files / "bundle").exists()


def test_a_bundle_with_an_item_twice_is_refused(command: Fedrec, files: Path) -> None:
    (files / "items.csv").write_text(ITEMS + "3,Film 3\n", encoding="utf-8")
    said = refused(command, "bundle", "phones.yaml", "--items", "items.csv", "--out", "bundle")
    assert "id '3' stands in line 5 already" in said


@pytest.fixture
def bundle(command: Fedrec, files: Path) -> Path:
    command("bundle", "phones.yaml", "--items", "items.csv", "--out", "bundle")
    return files / "bundle"


def test_serve_says_what_is_missing(command: Fedrec, bundle: Path) -> None:
    assert "expected CONFIG and --bundle" in refused(command, "serve", "phones.yaml")
    line = ("serve", "phones.yaml", "--bundle", "bundle", "--out", "out")
    assert "for a trial: fedrec certificates deployment" in refused(command, *line)
    other = refused(command, *line, "--set", "data.short_users=drop")
    assert "make it anew with fedrec bundle" in other
    assert "--resume: excludes CONFIG" in refused(command, *line, "--resume", "out")
    assert "no such folder" in refused(command, "serve", "--resume", "nowhere")
    assert not (bundle.parent / "out").exists()


def test_join_says_what_is_missing(command: Fedrec, bundle: Path) -> None:
    command("certificates", "keys", "--nodes", "1")
    options = {
        "--data": "log.csv",
        "--server": "localhost:1",
        "--ca": "keys/ca.crt",
        "--key": "keys/nodes/node-000",
        "--bundle": "bundle",
        "--state": "state",
    }

    def join(*more: str, **changed: str) -> str:
        given = {**options, **{f"--{name}": value for name, value in changed.items()}}
        parts = [part for pair in given.items() for part in pair]
        return refused(command, "join", *parts, *more)

    assert "none.csv" in join(data="none.csv")
    assert "--ca: there is no file" in join(ca="none")
    assert "--key: there is no file" in join(key="none")
    assert "none" in join(bundle="none")
    write_arrays(bundle.with_name("other"), {})
    assert "no bundle of this version" in join(bundle="other")
    assert "no column 'film'" in join("--set", "data.columns.item=film")
    assert "is said by the experiment" in join("--set", "data.threshold=4")


def test_recommend_reads_the_state_of_a_device(command: Fedrec, tmp_path: Path) -> None:
    experiment = experiment_of()
    data = experiment.data.load()
    folders = make_devices(experiment, data, OWNERS, tmp_path / "devices")
    none = refused(command, "recommend", str(folders[1]), "--user", str(data.user_ids[5]))
    assert "no run has left a model yet" in none
    serve(experiment, folders, tmp_path / "served")
    done = command("recommend", str(folders[1]), "--user", str(data.user_ids[5]), "--k", "3")
    assert done.code == 0 and len(done.out.strip().splitlines()) == 5
    other = refused(command, "recommend", str(folders[1]), "--user", str(data.user_ids[0]))
    assert "is not in the data" in other
