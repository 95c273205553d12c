"""The Flower engine, on Flower's real runtime with toy apps."""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedrec.config.engine import Engine
from fedrec.errors import EngineError, ProtocolError
from fedrec.flower.launch import ResolvedEngine, launch
from fedrec.flower.simulation import run_on_flower

pytest.importorskip("ray", reason="needs the extra 'sim'")

pytestmark = pytest.mark.slow

TOYS = Path(__file__).parent / "engines"
NODES = 3


@pytest.fixture(autouse=True)
def nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process, no file, whatever happens in the test."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("FEDREC_TEST", str(tmp_path))
    monkeypatch.syspath_prepend(str(TOYS))
    yield
    assert started(tmp_path) == []
    assert not [path for path in temporary.iterdir() if path.name.startswith("fedrec-flower-")]


def started(folder: Path) -> list[psutil.Process]:
    """The processes that run with the environment of the test."""
    processes = psutil.process_iter(["environ"])
    return [p for p in processes if (p.info["environ"] or {}).get("FEDREC_TEST") == str(folder)]


def run(name: str, out: Path, observer: Any, experiment: str = "toy") -> None:
    config = {"out": str(out), "split": str(NODES), "experiment": experiment}
    engine = Engine(name=name, workers=2, nodes=NODES)
    launch(engine, config, observer, server="toy_apps:server", client="toy_apps:client")


def test_the_result_has_the_same_bits_as_the_serial_engines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: dict[str, list[Mapping[str, Any]]] = {"serial": [], "flower": []}
    for name, rounds in seen.items():
        run(name, tmp_path / name, rounds.append)
    digests = {(tmp_path / name / "digest").read_text(encoding="utf-8") for name in seen}
    assert len(digests) == 1
    assert seen["flower"] == seen["serial"]
    assert len(seen["flower"]) == 3
    warning = ("fedrec", logging.WARNING, "100% of the toy is done")
    assert caplog.record_tuples == [warning, warning]  # once by each engine


def test_what_the_client_said_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="the toy divided by zero") as caught:
        run("flower", tmp_path / "out", None, experiment="break")
    assert "in refuse_errors" in caught.value.__notes__[0]


def test_an_interrupt_in_the_middle_of_the_run(tmp_path: Path) -> None:
    during = []

    def interrupt(record: Mapping[str, Any]) -> None:
        during.append(len(started(tmp_path)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("flower", tmp_path / "out", interrupt)
    assert during[0] > 2  # the simulation and Ray's daemons


def test_an_app_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    config, engine = (
        {"out": str(tmp_path / "out")},
        ResolvedEngine(name="flower", workers=2, nodes=2),
    )
    with pytest.raises(EngineError, match=r"no_such_module") as caught:
        run_on_flower("toy_apps:server", "no_such_module:client", config, engine)
    assert caught.value.__notes__


def test_no_proxy_is_asked_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    before = dict(os.environ)
    run("flower", tmp_path / "out", None)
    assert (tmp_path / "out" / "digest").exists()
    assert dict(os.environ) == before
