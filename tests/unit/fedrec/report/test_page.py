"""The page stands alone, is well-formed and says what the run folders say."""

import base64
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
import pandas as pd
import pytest

from fedrec.config.experiment import load_experiment
from fedrec.data import Synthetic
from fedrec.data.clients import Clients
from fedrec.data.prepare import save_split, split_of
from fedrec.errors import MissingExtra, RunFolderError
from fedrec.report import build, markdown
from fedrec.report.runs import load
from fedrec.runs.folder import SPLIT, write_result
from fedrec.storage.files import write_arrays

figures = pytest.importorskip("fedrec.report.figures", reason="needs the extra 'sim'")
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


def test_the_page_is_well_formed_and_its_ids_are_unique(several: list[Path]) -> None:
    root = tree(page.render(load(several)))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        for name, value in element.items():
            for target in re.findall(r"url\(#([^)]+)\)", value):
                assert target in ids
            if name == "href" and value.startswith("#"):
                assert value[1:] in ids


def test_the_page_needs_nothing_else(several: list[Path]) -> None:
    html = page.render(load(several))
    assert not re.search(r"https?:|//[a-z]|@import|<script|javascript:|url\((?!#)", html)
    assert all(x.startswith("data:") for x in re.findall(r'\b(?:src|href)="(?!#)([^"]*)"', html))


def test_every_picture_has_words_and_holds_itself(several: list[Path]) -> None:
    root = tree(page.render(load(several)))
    drawings = [image for image in root.iter("img") if image.get("alt")]
    assert len(drawings) >= 9
    for image in root.iter("img"):
        kind, _, content = (image.get("src") or "").partition(",")
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(content).decode()
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert all(len(image.get("alt") or "") > 20 for image in drawings)
    for figure in root.iter("figure"):
        assert figure.find("figcaption/h3") is not None


def test_the_headline_is_chosen_on_validation_and_never_legacy(several: list[Path]) -> None:
    groups = load(several)
    chosen = page.headline(groups)
    assert chosen is not None
    assert chosen.kind == "federated"
    values = chosen.values("metrics.test.ndcg@10")
    html = page.render(groups)
    heading = tree(html).find("body/main/header/h1")
    assert heading is not None
    assert f"{fmean(values):.4f} ± {stdev(values):.4f}" in (heading.text or "")
    assert "Legacy protocol." in html


def test_a_legacy_report_has_no_headline_number(make: Maker) -> None:
    groups = load([make("l", protocol="legacy")])
    assert page.headline(groups) is None
    heading = tree(page.render(groups)).find("body/main/header/h1")
    assert heading is not None
    assert (heading.text or "").startswith("Legacy protocol only")


def test_an_interrupted_run_alone_makes_a_page(make: Maker) -> None:
    path = make("i", method="plgc", status="interrupted", rounds=3)
    assert "interrupted at round 3" in page.render(load([path]))


def test_names_are_escaped(make: Maker) -> None:
    groups = load([make("x", method="plgc", change={"name": "<script>alert('&')</script>"})])
    html = page.render(groups)
    assert "<script" not in html
    tree(html)


def test_the_same_runs_make_the_same_page(several: list[Path]) -> None:
    assert page.render(load(several)) == page.render(load(several))


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
    with pytest.raises(MissingExtra, match="run: pip install "):
        build([run], tmp_path)
    assert "NDCG@10" in markdown([run])


def test_a_paper_that_a_plug_in_cites_is_shown_by_its_key(make: Maker) -> None:
    html = page.render(load([make("a", change={"citations": ["nobody1900", "rendle2009bpr"]})]))
    assert "nobody1900 (given by a plug-in" in html
    assert "Rendle, Steffen" in html


def test_many_methods_are_divided_over_panels_with_one_legend(many: list[Path]) -> None:
    selection = load(many)
    (section,) = selection.sections
    parts = drawing.panels(section)
    assert [part.title for part in parts] == [
        "Methods 1 to 6 on validation",
        "Methods 7 to 12 on validation",
    ]
    for part in parts:
        assert len({repr(style) for _, style in part.methods}) == len(part.methods) == 7
        assert part.methods[-1][0].centralised
    assert len({label for part in parts for label, _ in part.legend()}) == 13
    html = page.render(selection)
    assert html.count("Legend of all figures") == 1
    for group in section:
        assert f"<span>{group.label}</span>" in html
    figure = next(f for f in tree(html).iter("figure") if "how active" in "".join(f.itertext()))
    assert [heading.text for heading in figure.iter("h4")] == [part.title for part in parts]


def test_each_method_with_traffic_is_a_point_and_each_baseline_a_line(several: list[Path]) -> None:
    selection = load(several)
    section = next(s for s in selection.sections if any(g.centralised for g in s))
    every = figures.all_figures(drawing.panels(section), {})
    both, up = (figure for figure in every if "costs each client" in figure.title)
    ((_, image),) = both.drawings
    svg = ElementTree.fromstring(base64.b64decode(image.partition(",")[2]))
    ids = [element.get("id", "") for element in svg.iter()]
    # Of the three federated groups, the unfinished one has no score; of one seed there is no bar.
    assert sum(each.startswith("LineCollection") for each in ids) == 2
    assert image != up.drawings[0][1] and up.title.endswith("to send")
    alone = [group for group in section if group.centralised]
    assert not any("costs" in f.title for f in figures.all_figures(drawing.panels(alone), {}))


@pytest.mark.parametrize("number", [2, 3, 5])
def test_lines_that_cover_each_other_are_all_seen_and_named(number: int) -> None:
    axes = drawing.Canvas().subplots()
    values = pd.Series(np.sqrt(np.arange(20.0)))
    styles = drawing.STYLES
    same = [(f"same {i}", styles[i], values + 1e-9 * i) for i in range(number)]
    covered = drawing.plot(axes, [*same, ("other", styles[number], values + 1)])
    assert covered == [[label for label, *_ in same]]
    other, *drawn = axes.get_lines()
    widths = [line.get_linewidth() for line in drawn]
    assert len({*widths}) == number and other.get_linewidth() == min(widths)
    above = sorted(drawn, key=lambda line: line.get_zorder())
    assert [line.get_linewidth() for line in above] == sorted(widths, reverse=True)


def with_data(path: Path) -> Path:
    """A run folder that holds its data, from which the initial table is made again."""
    save_split(split_of(Synthetic(users=20, items=30), Clients()), path / SPLIT)
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    write_result(path, {k: v for k, v in result.items() if k not in ("files", "checksum")})
    return path


def test_a_collapsed_table_is_named(make: Maker) -> None:
    healthy, flat = with_data(make("a")), with_data(make("b", server_lr=0.5))
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
    (section,) = load([healthy, flat]).sections
    spectra = figures.spectra(section)
    table = figures.collapse(section, spectra)
    assert table.title == "Collapsed: lr=0.5"
    assert dict(zip(table.frame["Method"], table.frame["Collapsed"], strict=True)) == {
        "lr=0.01": "no",
        "lr=0.5": "yes",
    }
    drawn = figures.all_figures(drawing.panels(section), spectra)
    assert any("dimensions the item table uses" in figure.title for figure in drawn)


def test_a_run_whose_table_cannot_be_read_is_not_called_sound(make: Maker) -> None:
    paths = [with_data(make("a")), with_data(make("b", server_lr=0.5))]
    (paths[1] / "model.safetensors").write_bytes(b"x")
    (section,) = load(paths).sections
    table = figures.collapse(section, figures.spectra(section))
    assert dict(zip(table.frame["Method"], table.frame["Collapsed"], strict=True)) == {
        "lr=0.01": "no",
        "lr=0.5 [warning]": "not known",
    }
    assert any("model.safetensors" in note for note in table.notes)
    assert "not known" in page.render(load(paths))


def test_the_comparison_with_each_baseline_is_there(make: Maker) -> None:
    paths = [make("a"), make("b", method="plgc"), make("c", model="itemknn", centralised=True)]
    html = page.render(load(paths), "itemknn")
    assert "Test NDCG@10 against itemknn" in html
    assert html.count("Test NDCG@10 against ") >= 3 * 2  # heading and name of each table


def test_sections_that_cannot_be_compared_stand_apart(make: Maker) -> None:
    paths = [make("a"), make("b", method="plgc"), make("n", data={"name": "other"})]
    html = page.render(load(paths))
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
    expected = build([run], tmp_path / "plain.html").read_text(encoding="utf-8")
    (tmp_path / "matplotlibrc").write_text(MATPLOTLIBRC, encoding="utf-8")
    variables = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    code = "from pathlib import Path; from fedrec.report import build; "
    code += f"build([Path({str(run)!r})], Path('odd.html'))"
    if loaded_before:
        settings = "{'text.usetex': True, 'axes.facecolor': 'red', 'svg.fonttype': 'path'}"
        code = f"import matplotlib; matplotlib.rcParams.update({settings}); {code}"
    else:  # with these two a user's own import of matplotlib would fail
        variables |= {"MPLBACKEND": "none_such", "LC_ALL": "de_DE.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert loaded_before or "matplotlibrc" not in done.stderr
    assert (tmp_path / "odd.html").read_text(encoding="utf-8") == expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the PATH")
def test_a_browser_opens_the_page_without_a_word(several: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page.render(load(several)), encoding="utf-8")
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
