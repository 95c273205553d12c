import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import fedrec
from fedrec.cli.doctor import Finding, examine, table

HOME = Path(fedrec.__path__[0]).resolve().parent


def finding(what: str) -> Finding:
    return next(each for each in examine() if each.what == what)


def test_each_thing_is_named_once_and_what_is_not_ok_has_a_way_out() -> None:
    findings = examine()
    names = [each.what for each in findings]
    assert len(set(names)) == len(names)
    assert {"fedrec", "torch", "ray", "cores", "gpu", "cache", "disk", "data", "packages"} <= set(
        names
    )
    assert all(each.advice for each in findings if each.state != "ok")
    assert not any(each.stops for each in findings if each.state == "ok")


def test_this_installation_is_sound() -> None:
    assert [each for each in examine() if each.stops] == []


def test_the_table_shows_states_and_ways_out_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=200)
    missing = Finding("ray", "missing", "not installed", "pip install 'fedrec[sim]'")
    console.print(table([missing, Finding("disk", "ok", "[9 GiB]")]))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "pip install 'fedrec[sim]'" in text and "[9 GiB]" in text and "missing" in text


def test_a_cache_that_cannot_be_written_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "file" / "below"))
    cache = finding("cache")
    assert cache.stops and "FEDREC_CACHE" in cache.advice


def test_data_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREC_DATA", str(tmp_path / "nowhere"))
    assert finding("data").state == "missing"
    (tmp_path / "ml-100k").mkdir()
    monkeypatch.setenv("FEDREC_DATA", str(tmp_path))
    assert finding("data").text.endswith("ml-100k")


@pytest.mark.parametrize(
    ("key", "value", "state"),
    [
        ("FLWR_TELEMETRY_ENABLED", "1", "warn"),
        ("FLWR_TELEMETRY_ENABLED", "0", "ok"),
        ("FLWR_DISABLE_UPDATE_CHECK", "0", "warn"),
        ("RAY_USAGE_STATS_ENABLED", "1", "warn"),
    ],
)
def test_telemetry_that_the_user_turned_on_is_named(
    key: str, value: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(key, value)
    assert finding("telemetry").state == state


@pytest.mark.slow
@pytest.mark.parametrize("package", ["server", "clients"])
def test_a_folder_of_the_users_that_shadows_ours_is_named(tmp_path: Path, package: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "fedrec", "doctor"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HOME), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str((tmp_path / package).resolve()) in done.stdout
    assert "rename" in done.stdout
