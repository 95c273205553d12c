"""The tutorials do what they say: files, commands and outputs."""

import ast
import contextlib
import io
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedrec
from fedrec.cli.commands import main
from fedrec.config.experiment import load_experiment
from fedrec.plugins import table
from strategies import STRATEGIES, Composed

PRESET = re.compile(r"^\| `(\w+)` \|(.*)\|[^|]*, \d{4} \|$", re.MULTILINE)
"""A row of the table of presets: the name, and what the parts are."""
OUTSIDE = "tests/contracts/outside"
MODEL_PAGE, STRATEGY_PAGE = "write-a-client-model.md", "write-a-strategy.md"
TABLES_PAGE = "strategies.md"
PARTS = {"hodges_lehmann.py": 25, "shrunk.py": 25, "signum.py": 20, "onwards.py": 25}
"""How many lines a part of a strategy may have, with its imports."""
Blocks: TypeAlias = list[tuple[str, str, str]]
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

every_page = pytest.mark.parametrize("page", [MODEL_PAGE, STRATEGY_PAGE])


def blocks_of(root: Path, page: str) -> Blocks:
    """Return language, file name or "", and content of each block."""
    return BLOCK.findall((root / "docs" / page).read_text(encoding="utf-8"))


def printed(command: str) -> str:
    """What a command prints, errors too."""
    program, *argv = shlex.split(command)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        if program == "python":
            runpy.run_path(argv[0], run_name="__main__")
        else:
            assert program == "fedrec"
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
                patch.setattr(sys, "argv", [program, *argv])
                main()
    return output.getvalue()


def comparable(text: str) -> list[str]:
    """Lines without what differs between processors: decimals, and the round that is best."""
    masked = re.sub(r"\d\.\d+|round \d+", "#", text)
    return [line.rstrip() for line in masked.splitlines()]


def shows(expected: str, output: str) -> bool:
    """Whether lines stand in an output, one below the other but where the lines have ``...``."""
    places, gap = [0], False
    lines = comparable(output)
    for line in comparable(expected):
        if line == "...":
            gap = True
            continue
        reached = range(places[0], len(lines)) if gap else range(places[0], places[0] + 1)
        at = next((n for n in reached if n < len(lines) and lines[n] == line), None)
        if at is None:
            return False
        places, gap = [at + 1], False
    return gap or places[0] == len(lines)


@pytest.mark.slow
@every_page
def test_every_block_does_what_it_says(page: str, users_folder: Path, root: Path) -> None:
    blocks = blocks_of(root, page)
    assert {language for language, _, _ in blocks} == {"python", "yaml", "console"}
    for language, name, content in blocks:
        if language != "console":
            assert name, "every file of the page has a name"
            (users_folder / name).write_text(content, encoding="utf-8")
            continue
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", content, re.MULTILINE):
            output = printed(command)
            assert shows(expected, output), f"{command}\n{output}"


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    "model", ["two_layers:TwoLayers", "dropout:WithDropout", "own_negatives:OfTheSameGenre"]
)
def test_ray_agrees_with_serial(model: str, users_folder: Path, root: Path) -> None:
    shutil.copytree(root / OUTSIDE, users_folder, dirs_exist_ok=True)
    runpy.run_path("make_data.py")
    sets = [f"model={model}", "rounds.count=3", "engine.nodes=2", "engine.workers=2"]
    models = []
    for engine in ("serial", "ray"):
        document = users_folder / "content.yaml"
        run = fedrec.run(load_experiment(document, [*sets, f"engine.name={engine}"]), out=engine)
        models.append(load_file(run.folder / "model.safetensors"))
    one, other = models
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, atol=1e-5, err_msg=name)


def test_the_models_of_the_page_are_those_that_are_tested(root: Path) -> None:
    files = (root / OUTSIDE).glob("*.*")
    shown = {name: content for _, name, content in blocks_of(root, MODEL_PAGE) if name}
    assert shown == {path.name: path.read_text(encoding="utf-8") for path in files}


def test_outputs_are_compared() -> None:
    output = "one\ntwo 0.25\nthree\nfour\n"
    assert shows("one\n...\nthree\n...\n", output) and shows("...\ntwo 0.99\n...\n", output)
    assert shows("", "") and shows(output, output)
    for wrong in ("one\n", "...\nfive\n...\n", "one\nthree\n...\n", "...\nfour\nthree\n...\n"):
        assert not shows(wrong, output)


def test_parts_of_a_strategy_are_short(root: Path) -> None:
    shown = {
        name: ast.unparse(ast.parse(text))
        for _, name, text in blocks_of(root, STRATEGY_PAGE)
        if name in PARTS
    }
    lines = {name: sum(map(bool, text.splitlines())) for name, text in shown.items()}
    assert {name: n <= PARTS[name] for name, n in lines.items()} == dict.fromkeys(PARTS, True)


@pytest.mark.parametrize(
    "kind",
    ["strategies", "client_rules", "aggregations", "server_optimizers", "selections", "transforms"],
)
def test_every_part_of_a_strategy_is_described(kind: str, root: Path) -> None:
    text = (root / "docs" / TABLES_PAGE).read_text(encoding="utf-8")
    assert [name for name in table(kind) if f"`{name}`" not in text] == []


def test_presets_are_made_of_the_parts_that_the_table_says(root: Path) -> None:
    rows = dict(PRESET.findall((root / "docs" / TABLES_PAGE).read_text(encoding="utf-8")))
    for name in (name for name, kind in STRATEGIES.items() if issubclass(kind, Composed)):
        parts = [f"strategy.{part.replace(': ', '=', 1)}" for part in rows[name].split("`")[1::2]]
        made = load_experiment({"data": "synthetic", "strategy": "fedavg"}, parts).strategy
        assert dict(made) == dict(STRATEGIES[name]()), name


def test_examples_of_the_tables_are_experiments(root: Path, tmp_path: Path) -> None:
    for _, _, content in blocks_of(root, TABLES_PAGE):
        file = tmp_path / "example.yaml"
        file.write_text(f"data: synthetic\n{content}", encoding="utf-8")
        load_experiment(file)


@pytest.mark.parametrize("page", [MODEL_PAGE, STRATEGY_PAGE, TABLES_PAGE])
def test_links_of_a_page_lead_somewhere(page: str, root: Path) -> None:
    text = (root / "docs" / page).read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`]*`", "", text)):
        if link.startswith("#"):
            assert link[1:] in anchors, link
        else:
            assert (root / "docs" / link.partition("#")[0]).exists(), link
