"""The page stands alone, is well-formed and says what the run folders say."""

from __future__ import annotations

import json
import os
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

from fedrec.config.experiment import load_experiment
from fedrec.errors import MissingExtra, RunFolderError
from fedrec.report import build, markdown
from fedrec.report.runs import load
from fedrec.runs.folder import write_result
from fedrec.storage.files import write_arrays

figures = pytest.importorskip("fedrec.report.figures", reason="needs the extra 'sim'")
facets = pytest.importorskip("fedrec.report.facets", reason="needs the extra 'sim'")
page = pytest.importorskip("fedrec.report.page", reason="needs the extra 'sim'")
drawing = pytest.importorskip("fedrec.report.drawing", reason="needs the extra 'sim'")

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


@pytest.fixture
def many(make: Maker) -> list[Path]:
    """Twelve methods that differ in three settings, and a baseline."""
    paths = [
        make(f"{model}-{method}-{lr}", model=model, method=method, server_lr=lr, rounds=15)
        for model in ("mf", "neumf")
        for method in ("none", "plgc")
        for lr in (0.1, 0.01, 0.5)
    ]
    return [*paths, make("knn", model="itemknn", centralised=True)]


def tree(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>").strip())


def test_the_page_is_well_formed_and_its_ids_are_unique(
    several: list[Path], bibliography: str
) -> None:
    root = tree(page.render(load(several), None, bibliography))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        for name, value in element.items():
            for target in re.findall(r"url\(#([^)]+)\)", value):
                assert target in ids
            if name == "href" and value.startswith("#"):
                assert value[1:] in ids


def test_the_page_needs_nothing_else(several: list[Path], bibliography: str) -> None:
    html = page.render(load(several), None, bibliography)
    assert not re.search(r"https?:|//[a-z]|@import|<script|javascript:|url\((?!#)", html)
    assert re.findall(r'\b(?:src|href)="(?!#)([^"]*)"', html) == ["data:,"]


def test_every_picture_has_words(several: list[Path], bibliography: str) -> None:
    root = tree(page.render(load(several), None, bibliography))
    drawings = [svg for svg in root.iter("svg") if svg.get("class") != "swatch"]
    assert len(drawings) >= 9
    for svg in drawings:
        assert svg.get("role") == "img"
        assert len(svg.get("aria-label") or "") > 20
    for figure in root.iter("figure"):
        assert figure.find("figcaption/h3") is not None


def test_no_stand_in_colour_is_left(several: list[Path], bibliography: str) -> None:
    html = page.render(load(several), None, bibliography)
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
    html = page.render(groups, None, bibliography)
    heading = tree(html).find("body/main/header/h1")
    assert heading is not None
    assert f"{fmean(values):.4f} ± {stdev(values):.4f}" in (heading.text or "")
    assert "Legacy protocol." in html


def test_a_legacy_report_has_no_headline_number(make: Maker, bibliography: str) -> None:
    groups = load([make("l", protocol="legacy")])
    assert page.headline(groups) is None
    heading = tree(page.render(groups, None, bibliography)).find("body/main/header/h1")
    assert heading is not None
    assert (heading.text or "").startswith("Legacy protocol only")


def test_an_interrupted_run_alone_makes_a_page(make: Maker, bibliography: str) -> None:
    path = make("i", method="plgc", status="interrupted", rounds=3)
    assert "interrupted at round 3" in page.render(load([path]), None, bibliography)


def test_names_are_escaped(make: Maker, bibliography: str) -> None:
    groups = load([make("x", method="plgc", change={"name": "<script>alert('&')</script>"})])
    html = page.render(groups, None, bibliography)
    assert "<script" not in html
    tree(html)


def test_the_same_runs_make_the_same_page(several: list[Path], bibliography: str) -> None:
    assert page.render(load(several), None, bibliography) == page.render(
        load(several), None, bibliography
    )


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
    for name in ("page", "figures", "facets", "users", "spectra", "drawing"):
        monkeypatch.delitem(sys.modules, f"fedrec.report.{name}", raising=False)
    monkeypatch.delattr("fedrec.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="run: pip install "):
        build([run], tmp_path)
    assert "NDCG@10" in markdown([run])


def test_a_citation_without_an_entry_is_an_error(make: Maker, bibliography: str) -> None:
    groups = load([make("a", change={"citations": ["nobody1900"]})])
    with pytest.raises(RunFolderError, match="nobody1900"):
        page.render(groups, None, bibliography)


def test_many_methods_are_divided_over_panels_with_one_legend(
    many: list[Path], bibliography: str
) -> None:
    selection = load(many)
    (section,) = selection.sections
    panels = facets.facets(section)
    assert [panel.title for panel in panels] == ["mf", "neumf"]
    for panel in panels:
        assert len({*panel.labels}) == len(panel.labels) == 7
        looks = {(style.colour, str(style.dashes), style.marker) for style in panel.styles}
        assert len(looks) == 7
        assert panel.groups[-1].centralised
    html = page.render(selection, None, bibliography)
    assert html.count("Legend of all figures") == 1
    for panel in panels:
        for label, _ in panel.legend():
            assert f"<span>{label}</span>" in html
    figure = next(each for each in tree(html).iter("figure") if each.get("id") == "s0-users")
    assert [heading.text for heading in figure.iter("h4")] == ["mf", "neumf"]


@pytest.mark.parametrize("number", [2, 3, 5])
def test_lines_that_cover_each_other_are_all_seen_and_named(number: int) -> None:
    axes = drawing.Figure().subplots()
    x = np.arange(20.0)
    same = [
        drawing.Line(f"same {i}", drawing.Style(i), x, np.sqrt(x) + 1e-6 * i) for i in range(number)
    ]
    other = drawing.Line("other", drawing.Style(number), x, np.sqrt(x) + 1)
    covered = drawing.draw_lines(axes, [*same, other])
    assert covered == [tuple(line.label for line in same)]
    widths = [line.get_linewidth() for line in axes.get_lines()]
    assert len({*widths[:number]}) == number
    above = sorted(axes.get_lines()[:number], key=lambda line: line.get_zorder())
    assert [line.get_linewidth() for line in above] == sorted(widths[:number], reverse=True)


def test_the_styles_of_many_methods_differ() -> None:
    styles = [drawing.Style(number) for number in range(28)]
    looks = {(style.colour, str(style.dashes), style.marker) for style in styles}
    assert len(looks) == 28
    assert len({style.marker for style in styles[:7]}) == 7


def test_a_collapsed_table_is_named(make: Maker) -> None:
    healthy, flat = make("a"), make("b", server_lr=0.5)
    selection = load([healthy, flat])
    task = load_experiment(dict(selection.groups[0].first.config)).client_task()
    initial = task.initial_globals(300)["item"]
    rng = np.random.default_rng(0)
    learned = {
        healthy: rng.normal(size=(300, 32)),
        flat: np.outer(rng.normal(size=300), np.ones(32)),
    }
    for path, change in learned.items():
        table = (initial + change).astype(np.float32)
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
        write_arrays(
            path / "model.safetensors", {"item": table}, {"round": str(result["best_round"])}
        )
        write_result(path, {k: v for k, v in result.items() if k not in ("files", "checksum")})
    drawn = figures.all_figures(facets.facets(load([healthy, flat]).sections[0]))
    titles = {figure.key: figure.title for figure in drawn}
    assert titles["ranks"] == "Collapsed: server_lr=0.5"
    assert "spectrum" in titles


def test_the_comparison_with_each_baseline_is_there(make: Maker, bibliography: str) -> None:
    paths = [make("a"), make("b", method="plgc"), make("c", model="itemknn", centralised=True)]
    html = page.render(load(paths), "itemknn", bibliography)
    assert "Test NDCG@10 against itemknn" in html
    assert html.count("Test NDCG@10 against ") >= 3 * 2  # heading and name of each table


def test_sections_that_cannot_be_compared_stand_apart(make: Maker, bibliography: str) -> None:
    paths = [make("a"), make("b", method="plgc"), make("n", data={"name": "other"})]
    html = page.render(load(paths), None, bibliography)
    root = tree(html)
    headings = [h.text for h in root.iter("h2") if (h.text or "").startswith("Results")]
    assert len(headings) == 2
    assert page.headline(load(paths)) is None


MATPLOTLIBRC = """text.usetex: True
font.family: No Such Font
axes.facecolor: red
svg.fonttype: path
axes.formatter.use_locale: True
figure.dpi: nonsense
"""


@pytest.mark.slow
@pytest.mark.parametrize("loaded_before", [False, True])
def test_the_plotting_settings_of_the_user_change_nothing(
    make: Maker, tmp_path: Path, loaded_before: bool
) -> None:
    run = make("a", change={"citations": []}, rounds=10)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "matplotlibrc").write_text(MATPLOTLIBRC, encoding="utf-8")
    settings = "{'text.usetex': True, 'axes.facecolor': 'red', 'svg.fonttype': 'path'}"
    before = f"import matplotlib; matplotlib.rcParams.update({settings}); " if loaded_before else ""
    code = "from pathlib import Path; from fedrec.report import build; "
    code += f"build([Path({str(run)!r})], Path({str(tmp_path)!r}) / 'PAGE')"
    pages = []
    for name, folder, variables in (
        ("plain.html", tmp_path, {}),
        (
            "odd.html",
            elsewhere,
            {
                # With these two a user's own import of matplotlib would fail.
                **({} if loaded_before else {"MPLBACKEND": "none_such", "LC_ALL": "de_DE.UTF-8"}),
                "MATPLOTLIBRC": str(elsewhere / "matplotlibrc"),
            },
        ),
    ):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                (before if name == "odd.html" else "") + code.replace("PAGE", name),
            ],
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if not loaded_before:
            assert "matplotlibrc" not in done.stderr
        pages.append((tmp_path / name).read_text(encoding="utf-8"))
    assert pages[0] == pages[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the PATH")
def test_a_browser_opens_the_page_without_a_word(
    several: list[Path], bibliography: str, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page.render(load(several), None, bibliography), encoding="utf-8")
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
