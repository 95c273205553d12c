"""The numbers of a table are those of the run folders."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from rich.console import Console

from fedrec.report import markdown, terminal
from fedrec.report.compare import interval, paired
from fedrec.report.runs import load
from fedrec.report.table import Row, Table, costs, provenance, results, spread

Maker = Callable[..., Path]


def result(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    loaded: dict[str, dict[str, dict[str, float]]] = json.loads(
        (path / "result.json").read_text(encoding="utf-8")
    )
    return loaded


def test_cells_equal_the_results(make: Maker) -> None:
    paths = [make(f"s{seed}", method="plgc", seed=seed) for seed in range(3)]
    table = results(load(paths))
    mixed, only_global, only_local = table.rows
    found = [result(path)["metrics"] for path in paths]
    for column, metric in (("NDCG@10", "ndcg@10"), ("HR@10", "hit_rate@10"), ("MRR", "mrr")):
        at = table.columns.index(column)
        values = [metrics["test"][metric] for metrics in found]
        assert mixed.cells[at] == f"{fmean(values):.4f} ± {stdev(values):.4f}"
        for row, view in ((only_global, "global"), (only_local, "local")):
            views = [metrics["views"][view][metric] for metrics in found]  # type: ignore[index]
            assert row.cells[at] == f"{fmean(views):.4f} ± {stdev(views):.4f}"
    valid = [metrics["valid"]["ndcg@10"] for metrics in found]
    at = table.columns.index("Valid NDCG@10")
    assert mixed.cells[at] == f"{fmean(valid):.4f} ± {stdev(valid):.4f}"
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_legacy_and_centralised_rows_say_so_everywhere(make: Maker) -> None:
    paths = [make("a"), make("l", protocol="legacy")]
    paths.append(make("k", model="itemknn", centralised=True))
    table = results(load(paths))
    assert [row.kind for row in table.rows] == ["method", "legacy", "centralised"]
    text = markdown(paths)
    out = io.StringIO()
    terminal(paths, Console(file=out, width=400))
    for shown in (text, out.getvalue()):
        assert "LEGACY" in shown
        assert "do not compare" in shown
        assert "itemknn [centralised]" in shown
        assert "not comparable" in shown


def test_a_clean_report_does_not_mention_legacy(make: Maker) -> None:
    assert "legacy" not in markdown([make("a")]).lower()


def test_markdown_is_a_table(make: Maker) -> None:
    lines = [line for line in markdown([make("a"), make("b", seed=1)]).splitlines() if line]
    rows = [line for line in lines if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 3


def test_a_bar_in_a_cell_does_not_break_markdown() -> None:
    table = Table("t", ("a", "b"), (Row(("x|y", "1")),))
    assert "x\\|y" in table.to_markdown()


@pytest.mark.parametrize("width", [60, 100, 140, 250])
def test_a_narrow_terminal_loses_columns_aloud_and_never_the_protocol(
    make: Maker, width: int
) -> None:
    out = io.StringIO()
    terminal([make("a"), make("b", seed=1)], Console(file=out, width=width))
    text = out.getvalue()
    assert "clean" in text
    assert max(map(len, text.splitlines())) <= width
    assert ("Gini@10" in text.split("not shown")[0]) == ("not shown" not in text)


def test_in_a_narrow_terminal_what_all_rows_share_makes_room_for_scores(make: Maker) -> None:
    table = results(load([make("a"), make("b", seed=1)]))
    out = io.StringIO()
    terminal([make("c"), make("d", seed=1)], Console(file=out, width=90))
    text = out.getvalue()
    for name, cell in zip(table.columns[1 : table.words], table.rows[0].cells[1:], strict=False):
        assert f"- {name}: {cell}" in text
    assert "NDCG@10" in text.split("not shown")[0].replace("Valid NDCG@10", "")


def test_spread() -> None:
    assert spread([0.5]) == "0.5000"
    assert spread([]) == "–"
    assert spread([0.25, 0.75]) == "0.5000 ± 0.3536"


def test_costs_are_means_over_seeds(make: Maker) -> None:
    table = costs(load([make("a", seed=0), make("b", seed=2)]))
    cells = dict(zip(table.columns, table.rows[0].cells, strict=True))
    assert cells["Total s"] == "37.4"
    assert (cells["Up"], cells["Down"]) == ("51.7 MB", "55.6 MB")
    assert cells["Engine"] == "ray, 2 workers, 2 nodes"


def test_every_run_has_its_line_of_provenance(make: Maker) -> None:
    table = provenance(load([make("a"), make("b", seed=1), make("c", method="plgc")]))
    assert [row.cells[0] for row in table.rows] == ["a", "b", "c"]
    assert table.rows[0].cells[5] == "0123456789ab+dirty"


def test_the_interval_is_students(make: Maker) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the extra 'sim'")
    differences = np.random.default_rng(0).normal(0.1, 1, 57)
    mean, low, high = interval(differences)
    reference = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert mean == pytest.approx(differences.mean())
    assert (low, high) == pytest.approx((reference.low, reference.high))


def test_a_method_against_itself_differs_by_nothing(make: Maker) -> None:
    first = make("a")
    second = make("b", server_lr=0.5)
    (second / "per_user.parquet").write_bytes((first / "per_user.parquet").read_bytes())
    table = paired(load([first, second]))
    assert table is not None
    assert table.rows[0].cells[3:] == ("+0.0000", "[+0.0000, +0.0000]")


def test_only_like_is_compared_with_like(make: Maker) -> None:
    others = [make("l", protocol="legacy"), make("i", seed=4, status="interrupted", rounds=20)]
    assert paired(load([make("a"), *others])) is None
    assert paired(load([make("z")])) is None
