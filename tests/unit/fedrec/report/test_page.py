"""The page stands alone, is well-formed and says what the run folders say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from xml.etree import ElementTree

import numpy as np
import pytest

from fedrec.errors import MissingExtra, RunFolderError
from fedrec.report import build, markdown
from fedrec.report.runs import load

figures = pytest.importorskip("fedrec.report.figures", reason="needs the extra 'sim'")
page = pytest.importorskip("fedrec.report.page", reason="needs the extra 'sim'")

Maker = Callable[..., Path]


@pytest.fixture
def several(make: Maker) -> list[Path]:
    """Two methods over seeds, a baseline, an interrupted run and a legacy one."""
    return [
        *(make(f"plgc-{seed}", method="plgc", seed=seed, top=0.077) for seed in range(2)),
        *(make(f"mf-{seed}", seed=seed, top=0.079) for seed in range(2)),
        make("knn", model="itemknn", centralised=True, top=0.074),
        make("broken", method="plgc", seed=7, status="interrupted", rounds=40),
        make("legacy", protocol="legacy", top=0.2),
    ]


def tree(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>").strip())


def test_the_page_is_well_formed_and_its_ids_are_unique(
    several: list[Path], bibliography: str
) -> None:
    root = tree(page.render(load(several), bibliography))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        for name, value in element.items():
            for target in re.findall(r"url\(#([^)]+)\)", value):
                assert target in ids
            if name == "href" and value.startswith("#"):
                assert value[1:] in ids


def test_the_page_needs_nothing_else(several: list[Path], bibliography: str) -> None:
    html = page.render(load(several), bibliography)
    assert not re.search(r"https?:|//[a-z]|@import|<script|javascript:|url\((?!#)", html)
    assert re.findall(r'\b(?:src|href)="(?!#)([^"]*)"', html) == ["data:,"]


def test_every_picture_has_words(several: list[Path], bibliography: str) -> None:
    root = tree(page.render(load(several), bibliography))
    drawings = [svg for svg in root.iter("svg") if svg.get("class") != "swatch"]
    assert len(drawings) >= 9
    for svg in drawings:
        assert svg.get("role") == "img"
        assert len(svg.get("aria-label") or "") > 20
    for figure in root.iter("figure"):
        assert figure.find("figcaption/h3") is not None


def test_no_stand_in_colour_is_left(several: list[Path], bibliography: str) -> None:
    html = page.render(load(several), bibliography)
    assert not re.search(r"#0[1-5]0[0-9a-f]{3}\b", html)
    assert set(re.findall(r"var\(--([a-z0-9]+)", html)) <= set(re.findall(r"--(\w+):", html))


def test_the_headline_is_chosen_on_validation_and_never_legacy(
    several: list[Path], bibliography: str
) -> None:
    groups = load(several)
    chosen = page.headline(groups)
    assert chosen is not None
    assert not chosen.legacy
    assert not chosen.centralised
    values = chosen.values("test", "ndcg@10")
    html = page.render(groups, bibliography)
    heading = tree(html).find("body/main/header/h1")
    assert heading is not None
    assert f"{fmean(values):.4f} ± {stdev(values):.4f}" in (heading.text or "")
    assert "Legacy protocol." in html


def test_a_legacy_report_has_no_headline_number(make: Maker, bibliography: str) -> None:
    groups = load([make("l", protocol="legacy")])
    assert page.headline(groups) is None
    heading = tree(page.render(groups, bibliography)).find("body/main/header/h1")
    assert heading is not None
    assert (heading.text or "").startswith("Legacy protocol only")


def test_an_interrupted_run_alone_makes_a_page(make: Maker, bibliography: str) -> None:
    path = make("i", method="plgc", status="interrupted", rounds=3)
    assert "interrupted at round 3" in page.render(load([path]), bibliography)


def test_names_are_escaped(make: Maker, bibliography: str) -> None:
    groups = load([make("x", method="plgc", change={"name": "<script>alert('&')</script>"})])
    html = page.render(groups, bibliography)
    assert "<script" not in html
    tree(html)


def test_the_same_runs_make_the_same_page(several: list[Path], bibliography: str) -> None:
    assert page.render(load(several), bibliography) == page.render(load(several), bibliography)


def test_build_writes_a_file_or_into_a_folder(make: Maker, tmp_path: Path) -> None:
    run = make("a", change={"citations": []})
    assert build([run], tmp_path / "sub" / "page.html") == tmp_path / "sub" / "page.html"
    assert build([run], tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(RunFolderError, match="cannot be written"):
        build([run], tmp_path / "report.html" / "below.html")


def test_without_its_extra_the_page_names_the_pip_line(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("a", change={"citations": []})
    for name in ("page", "figures", "drawing"):
        monkeypatch.delitem(sys.modules, f"fedrec.report.{name}", raising=False)
    monkeypatch.delattr("fedrec.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fedrec\[sim\]'"):
        build([run], tmp_path)
    assert "NDCG@10" in markdown([run])


def test_a_citation_without_an_entry_is_an_error(make: Maker, bibliography: str) -> None:
    groups = load([make("a", change={"citations": ["nobody1900"]})])
    with pytest.raises(RunFolderError, match="nobody1900"):
        page.render(groups, bibliography)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_singular_values_have_the_effective_rank_of_their_number(rank: int) -> None:
    basis = np.linalg.qr(np.random.default_rng(rank).normal(size=(40, rank)))[0]
    basis -= basis.mean(axis=0)
    table = np.linalg.qr(basis)[0] @ np.eye(rank, 12) + 5.0
    values = figures.singular_values(table)
    assert values[:rank] == pytest.approx(np.ones(rank))
    assert figures.effective_rank(values) == pytest.approx(rank, rel=1e-9)


def test_a_constant_table_has_no_rank() -> None:
    assert figures.effective_rank(figures.singular_values(np.ones((5, 3)))) == 0.0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the PATH")
def test_a_browser_opens_the_page_without_a_word(
    several: list[Path], bibliography: str, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page.render(load(several), bibliography), encoding="utf-8")
    shot = tmp_path / "shot.png"
    flags = "headless no-sandbox disable-gpu enable-logging=stderr v=0 disable-quic no-first-run"
    flags += " disable-background-networking disable-component-update disable-sync"
    command = ["chromium", *(f"--{flag}" for flag in flags.split())]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2400"]
    command += [f"--screenshot={shot}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert shot.stat().st_size > 50_000
