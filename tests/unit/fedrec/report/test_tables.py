"""The numbers of a table are those of the run folders, whatever the format."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from fedrec.errors import RunFolderError
from fedrec.report import build, markdown, target, terminal
from fedrec.report.runs import load
from fedrec.report.tables import (
    Table,
    all_results,
    costs,
    interval,
    numbers,
    paired,
    results,
    runs,
    spread,
)
from fedrec.report.text import to_latex, to_markdown
from fedrec.runs.folder import write_result

Maker = Callable[..., Path]


def scores(path: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((path / "result.json").read_text(encoding="utf-8"))
    return dict(metrics["metrics"])


def sealed(path: Path) -> None:
    """Write the result again, with the hashes of files as they are now."""
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    write_result(path, {k: v for k, v in result.items() if k not in ("files", "checksum")})


def first_results(paths: list[Path]) -> Table:
    selection = load(paths)
    return results(selection, selection.sections[0])


def shown(paths: list[Path], width: int) -> str:
    out = io.StringIO()
    terminal(paths, Console(file=out, width=width))
    return out.getvalue()


def test_cells_equal_the_results(make: Maker) -> None:
    paths = [make(f"s{seed}", method="plgc", seed=seed) for seed in range(3)]
    table = first_results(paths)
    metrics = [scores(path) for path in paths]
    for title, metric in (("NDCG@10", "ndcg@10"), ("HR@10", "hit_rate@10"), ("MRR", "mrr")):
        values = [each["test"][metric] for each in metrics]
        cells = [f"{fmean(values):.4f} ± {stdev(values):.4f}"]
        for view in ("global", "local"):
            values = [each["views"][view][metric] for each in metrics]
            cells.append(f"{fmean(values):.4f} ± {stdev(values):.4f}")
        assert list(table.frame[title]) == cells
    values = [each["valid"]["ndcg@10"] for each in metrics]
    expected = f"{fmean(values):.4f} ± {stdev(values):.4f}"
    assert table.frame["Validation NDCG@10"].iloc[0] == expected


def test_the_csv_holds_the_numbers_of_the_results(make: Maker, tmp_path: Path) -> None:
    paths = [make(f"s{seed}", method="plgc", seed=seed) for seed in range(3)]
    paths.append(make("other", server_lr=0.5, status="interrupted", rounds=20))
    frame = pd.read_csv(build(paths, tmp_path / "x.CSV"), keep_default_na=False, na_values=[""])
    assert list(frame["kind"]) == ["federated", "unfinished"]
    results = [scores(path) for path in paths[:3]]
    for column, values in {
        "test.ndcg@10": [each["test"]["ndcg@10"] for each in results],
        "valid.mrr": [each["valid"]["mrr"] for each in results],
        "test.local.ndcg@10": [each["views"]["local"]["ndcg@10"] for each in results],
    }.items():
        assert frame[column][0] == pytest.approx(fmean(values), rel=1e-12)
        assert frame[f"{column} sd"][0] == pytest.approx(stdev(values), rel=1e-12)
    assert np.isnan(frame["test.ndcg@10 sd"][1]) and np.isnan(frame["test.local.ndcg@10"][1])
    assert list(frame["strategy.server_optimizer.lr"]) == [0.01, 0.5]
    assert "interrupted at round 20" in frame["warnings"][1]


def test_legacy_and_centralised_rows_say_so_everywhere(make: Maker, tmp_path: Path) -> None:
    paths = [make("a"), make("l", protocol="legacy"), make("k", model="itemknn", centralised=True)]
    texts = [markdown(paths), shown(paths, 400)]
    texts.append(build(paths, tmp_path / "x.tex").read_text(encoding="utf-8"))
    for text in texts:
        plain = " ".join(text.replace("\\", "").split())
        assert "LEGACY protocol (leaks)" in plain
        assert "do not compare" in plain
        assert "itemknn [centralised]" in plain
        assert "not comparable" in plain


def test_a_clean_report_does_not_mention_legacy(make: Maker) -> None:
    assert "legacy" not in markdown([make("a")]).lower()


def test_markdown_is_one_table_per_title(make: Maker) -> None:
    text = markdown([make("a"), make("b", seed=1), make("c", method="plgc")])
    tables = [part for part in text.split("**") if "| ---" in part]
    assert len(tables) == 2, "results and the paired comparison"
    for table in tables:
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1


def test_signs_with_a_meaning_are_escaped() -> None:
    frame = pd.DataFrame({"a": ["x|y_*&%$#{}~^\\ ± –"], "b": ["1"]}, ["federated"])
    table = Table("50 % of _it_ & more", frame, notes=("a note\nof two lines",))
    assert "x\\|y\\_\\*" in to_markdown(table)
    text = to_latex(table)
    assert r"x|y\_*\&\%\$\#\{\}" in text
    assert r"50 \% of \_it\_ \& more" in text
    assert r"$\pm$" in text
    assert text.startswith("% a note of two lines\n")


@pytest.mark.parametrize("width", [60, 100, 140, 250])
def test_a_narrow_terminal_loses_columns_aloud_and_never_the_protocol(
    make: Maker, width: int
) -> None:
    text = shown([make("a"), make("b", seed=1)], width)
    assert "clean" in text
    assert max(map(len, text.splitlines())) <= width
    assert ("Gini@10" in text.split("too narrow")[0]) == ("too narrow" not in text)


def test_what_was_left_out_and_warnings_are_in_every_text(make: Maker, tmp_path: Path) -> None:
    make("good", change={"warnings": ["ndcg@10: 3 users have few candidates"]})
    (make("bad", seed=1) / "result.json").write_text("{", encoding="utf-8")
    texts = [markdown([tmp_path]), shown([tmp_path], 300)]
    texts.append(build([tmp_path], tmp_path / "x.tex").read_text(encoding="utf-8"))
    for text in texts:
        plain = text.replace("\\", "")
        assert "3 users have few candidates" in plain
        assert "left out: " in plain
        assert "bad/result.json: is damaged" in plain.replace("\n", "")


def test_a_method_that_is_not_compared_is_named_also_where_it_is_the_only_one(
    make: Maker,
) -> None:
    for damaged in ("a", "b"):
        paths = {"a": make(f"{damaged}a"), "b": make(f"{damaged}b", method="plgc")}
        (paths[damaged] / "per_user.parquet").write_bytes(b"PAR1")
        text = markdown(list(paths.values()))
        assert "per\\_user.parquet: is damaged" in text
        assert "[warning]" in text


def test_spread() -> None:
    assert spread(pd.Series([0.5])) == "0.5000"
    assert spread(pd.Series(dtype=float)) == "–"
    assert spread(pd.Series([0.25, 0.75])) == "0.5000 ± 0.3536"


def test_costs_are_means_over_seeds(make: Maker) -> None:
    row = costs(load([make("a", seed=0), make("b", seed=2)]).groups).frame.iloc[0]
    assert row["Total s"] == "37.4"
    assert (row["Up"], row["Down"]) == ("51.7 MB", "55.6 MB")
    assert (row["Up per client"], row["Down per client"]) == ("1.1 kB", "1.2 kB")
    assert (row["Engine"], row["Workers"], row["Nodes"]) == ("ray", "2", "2")


def test_metrics_of_two_plug_ins_may_have_one_name(make: Maker) -> None:
    values = {"a:Mine@5": 0.25, "b.c:Mine@5": 0.75}
    change = {"metrics": {"valid": values, "test": values, "views": {}}}
    path = make("a", change=change, metrics=list(values))
    table = first_results([path])
    assert list(table.frame.columns[-2:]) == ["Mine@5", "Mine@5"]
    assert list(table.frame.iloc[0, -2:]) == ["0.2500", "0.7500"]
    assert "| Mine@5 | Mine@5 |" in markdown([path])
    assert numbers(load([path]))["test.b.c:Mine@5"].tolist() == [0.75]


def test_every_run_has_its_line(make: Maker) -> None:
    frame = runs(load([make("a"), make("b", seed=1), make("c", method="plgc")]).groups).frame
    assert list(frame["Folder"]) == ["a", "b", "c"]
    assert frame["Commit"].iloc[0] == "0123456789ab+dirty"


def test_the_interval_is_students(make: Maker) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the extra 'sim'")
    differences = pd.Series(np.random.default_rng(0).normal(0.1, 1, 57))
    mean, low, high = interval(differences)
    reference = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert mean == pytest.approx(differences.mean())
    assert (low, high) == pytest.approx((reference.low, reference.high))


def test_a_method_against_itself_differs_by_nothing(make: Maker) -> None:
    first, second = make("a"), make("b", server_lr=0.5)
    (second / "per_user.parquet").write_bytes((first / "per_user.parquet").read_bytes())
    sealed(second)
    table = all_results(load([first, second]))[1]
    row = table.frame.iloc[0]
    assert (row["Difference"], row["95 % interval"]) == ("+0.0000", "[+0.0000, +0.0000]")
    assert row["Result"] == "no clear difference"


def test_only_like_is_compared_with_like(make: Maker) -> None:
    others = [make("l", protocol="legacy"), make("i", seed=4, status="interrupted", rounds=20)]
    others.append(make("n", data={"name": "other"}))
    tables = all_results(load([make("a"), *others]))
    assert all(table.title.startswith("Test metrics on") for table in tables)


def test_users_with_other_train_items_are_not_compared(make: Maker) -> None:
    first, second = make("a"), make("b", server_lr=0.5)
    frame = pd.read_parquet(second / "per_user.parquet")
    frame.assign(n_train=frame["n_train"] + 1).to_parquet(second / "per_user.parquet")
    sealed(second)
    third = make("c", server_lr=0.7)
    selection = load([first, second, third])
    (section,) = selection.sections
    table = paired(section, selection.groups[0])
    assert table is not None
    assert list(table.frame["Method"]) == ["lr=0.7"]
    assert any("train items differ" in note for note in table.notes)


@pytest.mark.parametrize("name", ["x.pdf", "x.xlsx", "x.html.gz", ".hidden.json"])
def test_another_ending_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunFolderError, match=r"expected \.html, \.md, \.csv, \.tex or a folder"):
        build([tmp_path / "no run is read"], tmp_path / name)


def test_the_ending_counts_whatever_its_case_and_a_folder_gets_a_page(tmp_path: Path) -> None:
    for name in ("x.HTML", "y.Md", "z.csv", "w.TEX"):
        assert target(tmp_path / name) == tmp_path / name
    (tmp_path / "runs.v2").mkdir()
    assert target(tmp_path / "runs.v2") == tmp_path / "runs.v2" / "report.html"
    assert target(tmp_path / "new") == tmp_path / "new" / "report.html"


def test_paths_may_be_text_and_begin_at_the_home_folder(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make("a")
    assert build(["~/a"], "~/x.md") == tmp_path / "x.md"
    assert (tmp_path / "x.md").read_text(encoding="utf-8") == markdown([str(tmp_path / "a")])


@pytest.mark.parametrize("name", ["x.html", "x.md", "x.csv", "x.tex"])
def test_a_report_replaces_a_report_and_no_other_file(
    make: Maker, tmp_path: Path, name: str
) -> None:
    run, file = make("a"), tmp_path / name
    file.write_text("user,item\nann,3\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="exists and is no report"):
        build([run], file)
    assert file.read_text(encoding="utf-8") == "user,item\nann,3\n"
    file.unlink()
    text = build([run], file).read_text(encoding="utf-8")
    assert build([run], file).read_text(encoding="utf-8") == text


SLICE_METRICS = {
    "ndcg@10": 0.08,
    "ndcg@10[tail]": 0.02,
    "ndcg@10[cold]": 0.3,
    "cold_share@10[cold]": 0.9,
}


def make_sliced(
    make: Maker, name: str, slices: list[str], factor: float = 1.0, **fields: Any
) -> Path:
    """A run with slices: planted means, and values of its users."""
    measured = {label: value * factor for label, value in SLICE_METRICS.items()}
    sizes = {"items": 40, "users": {"test": 300}, "ranked": {"test": 24.6}}
    change = {
        "metrics": {"valid": measured, "test": measured, "views": {"local": measured}},
        "reference": {"chance": {"test": {"ndcg@10[tail]": 0.01, "ndcg@10[cold]": 0.1}}},
        "slices": dict.fromkeys(slices, sizes),
    }
    path = make(name, change=change, slices=slices, **fields)
    frame = pd.read_parquet(path / "per_user.parquet")
    is_ranked = np.arange(len(frame)) < 300
    for label in ("ndcg@10[tail]", "ndcg@10[cold]"):
        frame[f"test.{label}"] = np.where(is_ranked, measured[label], np.nan)
    frame.to_parquet(path / "per_user.parquet")
    sealed(path)
    return path


def test_each_slice_has_a_table_with_chance_and_a_paired_comparison(
    make: Maker, tmp_path: Path
) -> None:
    slices = ["tail", "cold"]
    paths = [make_sliced(make, "a", slices), make_sliced(make, "b", slices, 2.0, server_lr=0.5)]
    tables = all_results(load(paths), "lr=0.01")
    assert [table.title.partition(" (")[0] for table in tables] == [
        "Test metrics on ml-100k, leave one out, clean protocol, full ranking of warm items",
        "Test NDCG@10 against lr=0.01",
        "Test metrics of tail items among warm items on ml-100k, leave one out, clean protocol",
        "Test NDCG@10 of tail items among warm items against lr=0.01",
        "Test metrics of cold items among themselves on ml-100k, leave one out, clean protocol",
        "Test NDCG@10 of cold items among themselves against lr=0.01",
    ]
    tail = tables[2].frame
    assert list(tail["NDCG@10"]) == ["0.0400", "0.0400", "0.0200", "0.0200", "0.0100"]
    assert list(tail["× chance"]) == ["4.00", "4.00", "2.00", "2.00", ""]
    assert list(tail["Method"])[-2:] == ["↳ local score alone", "chance"]
    assert "300 of 400 users" in tables[2].notes[0] and "rank 25 items" in tables[2].notes[0]
    assert tables[3].frame["Difference"].tolist() == ["+0.0200"]
    assert tables[3].notes[0].startswith("paired over 300 users")
    assert "Cold share@10" in tables[4].frame
    frame = pd.read_csv(build(paths, tmp_path / "x.csv"))
    assert frame["test.ndcg@10[tail]"].tolist() == [0.04, 0.02]


def test_runs_that_rank_warm_items_alone_are_not_compared_with_others(make: Maker) -> None:
    paths = [make("all"), make_sliced(make, "warm", ["tail"]), make_sliced(make, "cold", ["cold"])]
    sections = load(paths).sections
    assert sorted(len(section) for section in sections) == [1, 2]
    titles = [table.title for table in all_results(load(paths))]
    assert sum(title.startswith("Test metrics of tail items") for title in titles) == 1
    assert not any(title.startswith("Test NDCG@10 of") for title in titles)
