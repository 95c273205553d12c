"""Runs are grouped by everything but the seed, and told apart by what differs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.errors import RunFolderError
from fedrec.report.runs import load, pretty_metric

Maker = Callable[..., Path]


def test_seeds_of_one_experiment_are_one_group(make: Maker) -> None:
    paths = [make("b", seed=2), make("other", method="plgc"), make("a", seed=1)]
    first, second = load(paths).groups
    assert [run.seed for run in first.runs] == [1, 2]
    assert (first.label, second.label) == ("no personalization", "plgc")
    assert [len(group.notes) for group in (first, second)] == [0, 0]


def test_a_changed_setting_is_another_group_that_says_so(make: Maker) -> None:
    groups = load([make("a"), make("b", server_lr=0.5)]).groups
    assert [group.label for group in groups] == ["lr=0.01", "lr=0.5"]


def test_an_interrupted_seed_is_in_no_mean(make: Maker) -> None:
    done, broken = load([make("a"), make("b", seed=1, status="interrupted", rounds=30)]).groups
    assert [run.seed for run in done.runs] == [0]
    assert broken.title.endswith("[unfinished]")
    assert "seed 1: interrupted at round 30" in broken.notes
    assert len(broken.values("metrics.test.ndcg@10")) == 1


def test_the_same_seed_counts_once_and_its_digests_are_compared(make: Maker) -> None:
    (equal,) = load([make("a"), make("b")]).groups
    assert len(equal.runs) == 1
    assert any("equal digests" in note for note in equal.notes)
    (differing,) = load([make("c"), make("d", change={"digest": "ff"})]).groups
    assert any("DIFFERENT digests" in note for note in differing.notes)


def test_a_run_named_twice_is_read_once(make: Maker) -> None:
    path = make("a")
    (group,) = load([path, path]).groups
    assert len(group.runs) == 1
    assert group.notes == ()


def test_a_torn_log_is_told(make: Maker) -> None:
    path = make("a", status="interrupted", rounds=9)
    (path / "result.json").unlink()
    with (path / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 10, "cli')
    (group,) = load([path]).groups
    assert any("cut off" in note for note in group.notes)


def test_warnings_of_a_run_are_told_with_its_seeds(make: Maker) -> None:
    change = {"warnings": ["ndcg@5: 3 users have fewer than 5 candidates"]}
    paths = [make("a", change=change), make("b", seed=1, change=change), make("c", seed=2)]
    (group,) = load(paths).groups
    assert group.notes == ("seeds 0, 1: warning: ndcg@5: 3 users have fewer than 5 candidates",)
    assert group.title.endswith("[warning]")


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="at least one"):
        load([])
    with pytest.raises(RunFolderError, match="no such folder"):
        load([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for name in ("empty", "file"):
        with pytest.raises(RunFolderError, match="not a run folder"):
            load([tmp_path / name])


DAMAGE: dict[str, tuple[str, str | bytes]] = {
    "result is no JSON": ("result.json", "{"),
    "result is a list": ("result.json", "[]"),
    "result is a number": ("result.json", "3"),
    "metrics are a list": ("result.json", '{"status": "completed", "metrics": [1]}'),
    "a score is a word": (
        "result.json",
        '{"status": "completed", "best_round": 1, "metrics": {"test": {"ndcg@10": "high"}}}',
    ),
    "warnings are a number": (
        "result.json",
        '{"status": "completed", "best_round": 1, "warnings": 3, "metrics": {"test": {}}}',
    ),
    "result is not text": ("result.json", b"\xff\xfe\x00"),
    "configuration is empty": ("config.yaml", ""),
    "configuration is a list": ("config.yaml", "[1, 2]"),
    "configuration is no YAML": ("config.yaml", "a: [b"),
    "a section is a number": ("config.yaml", "data: 3\nmodel: 4\nevaluate: 5\n"),
    "metrics of the configuration": ("config.yaml", "evaluate: {metrics: 5}"),
    "a line of the log is damaged": ("rounds.jsonl", "x\n{}\n"),
    "a record of the log has no round": ("rounds.jsonl", "{}\n"),
    "the log is a picture": ("rounds.jsonl", b"\x89PNG\r\n\x1a\n\x00\n"),
}


@pytest.mark.parametrize("status", ["completed", "interrupted"])
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_is_named_in_one_line_and_the_others_are_shown(
    make: Maker, case: str, status: str
) -> None:
    name, content = DAMAGE[case]
    damaged, good = make("damaged", status=status, rounds=9), make("good", seed=1, rounds=9)
    if status == "interrupted":
        (damaged / "result.json").unlink()
    file = damaged / name
    content = content if isinstance(content, bytes) else content.encode()
    header = b"# fedrec run folder, format 2\n" if name == "config.yaml" else b""
    file.write_bytes(header + content)
    with pytest.raises(RunFolderError, match="damaged") as error:
        load([damaged])
    assert "\n" not in str(error.value)
    selection = load([damaged.parent])
    assert [group.first.folder.path for group in selection.groups] == [good]
    assert len(selection.left_out) == 1
    assert str(damaged) in selection.left_out[0]


@pytest.mark.parametrize("content", [b"", b"PAR1", None])
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("per_user.parquet", "completed"),
        ("per_user.parquet", "interrupted"),
        ("model.safetensors", "completed"),
        ("local/node-1.safetensors", "completed"),
    ],
)
def test_a_file_that_the_report_lacks_is_named_with_its_run(
    make: Maker, name: str, status: str, content: bytes | None
) -> None:
    paths = [make("a", method="plgc", status=status, rounds=9), make("b", server_lr=0.5)]
    file = paths[0] / name
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)
    damaged, good = sorted(load(paths).groups, key=lambda group: group.first.folder.path)
    assert any(str(file) in note and "\n" not in note for note in damaged.notes) == (
        status == "completed" or content is not None
    )
    assert good.notes == ()


def test_the_folder_of_another_version_is_left_out_by_name(make: Maker) -> None:
    old, good = make("old"), make("good", seed=1)
    text = (old / "config.yaml").read_text(encoding="utf-8").partition("\n")[2]
    (old / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match="another version"):
        load([old])
    selection = load([old.parent])
    assert [group.first.folder.path for group in selection.groups] == [good]
    assert "another version" in selection.left_out[0]


def test_runs_that_cannot_be_compared_are_in_sections_of_their_own(make: Maker) -> None:
    paths = [make("a"), make("l", protocol="legacy"), make("n", data={"name": "other"})]
    paths += [make("k", metrics=["ndcg@20", "ndcg@10"]), make("u", server_lr=0.5)]
    other_file = make("v", server_lr=0.7, change={"users": 7})  # other content, the same name
    sections = load([*paths, other_file]).sections
    names = [sorted(g.first.folder.path.name for g in section) for section in sections]
    assert names == [["a", "u"], ["l"], ["n"], ["k"], ["v"]]


def test_the_best_on_validation_comes_first_and_what_is_unfinished_last(make: Maker) -> None:
    paths = [make("i", server_lr=0.1, top=0.3, status="interrupted", rounds=20)]
    paths += [make("low", top=0.05), make("high", top=0.09, server_lr=0.5)]
    (section,) = load(paths).sections
    assert [group.first.folder.path.name for group in section] == ["high", "low", "i"]


def test_the_baseline_is_the_best_without_personalization_or_what_is_named(make: Maker) -> None:
    knn = make("knn", model="itemknn", centralised=True, top=0.2)
    plgc = make("p", method="plgc", top=0.1)
    plain = [make("a", top=0.05), make("b", top=0.07, server_lr=0.5)]

    def chosen(paths: list[Path], named: str | None = None) -> str:
        selection = load(paths)
        group = selection.baseline(selection.sections[0], named)
        assert group is not None
        return group.first.folder.path.name

    assert chosen([plgc, *plain, knn]) == "b"
    assert chosen([plgc, knn]) == "knn"
    assert chosen([plgc]) == "p"
    assert chosen([plgc, *plain, knn], str(plain[0])) == "a"
    assert chosen([plgc, *plain, knn], "plgc") == "p"
    assert chosen([plgc, *plain, knn], "ITEMKNN") == "knn"
    with pytest.raises(RunFolderError, match="fits several"):
        chosen([plgc, *plain, knn], "mf")
    with pytest.raises(RunFolderError, match="expected a label or a run folder"):
        chosen([plgc, *plain], "nothing like it")
    with pytest.raises(RunFolderError, match="did not come to its end"):
        chosen([plgc, make("i", server_lr=3.0, status="interrupted", rounds=9)], "i")


def test_labels_of_metrics() -> None:
    labels = ("ndcg@10", "hit_rate@5", "mrr", "coverage@10", "mymet:mine@5", "a.b:TopMean@5")
    assert [pretty_metric(label) for label in labels] == [
        "NDCG@10",
        "HR@5",
        "MRR",
        "Coverage@10",
        "Mine@5",
        "TopMean@5",
    ]
