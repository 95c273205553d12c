"""What holds for every module that ships. (Sorted ``__all__``, docstrings' form, print: ruff.)"""

import ast
import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
SAID_NOTHING = {"common", "helper", "helpers", "misc", "tools", "util", "utils"}

# Ray carries our messages by pickle protocol 5, buffers out of band, between processes of one run.
PICKLE_OF_RAY = {"fedrec/flower/message_arrays.py", "fedrec/flower/ray_grid.py"}
# Published weights in torch's form: their SHA-256 is compared before, and only tensors are read.
LOADS_WEIGHTS = {"fedrec/features/pictures.py"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

# numpy's and torch's own generators are fine where the caller passes the seed in.
NUMPY_GENERATORS = {"BitGenerator", "Generator", "PCG64", "Philox", "SeedSequence", "default_rng"}
TORCH_DRAWS = {"bernoulli", "multinomial", "normal", "rand", "randint", "randn", "randperm"}
TORCH_SEEDS = {"manual_seed", "seed", "set_rng_state"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.expr) -> str:
    """``np.random.rand`` of the expression that says so, else ""."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        below = dotted(node.value)
        return f"{below}.{node.attr}" if below else ""
    return ""


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of all absolute imports, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_what_ships_does_not_import_what_does_not(shipped_files: list[Path]) -> None:
    """Imports between packages are import-linter's; these folders are no packages."""
    outside = {"experiments", "tests"}
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in shipped_files}
    assert {name_of(path) for path, tree in trees.items() if outside & set(imported(tree))} == set()


def test_no_file_is_too_long(tracked_files: list[Path]) -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in tracked_files
        if path.suffix == ".py"
    }
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_no_module_is_called_after_nothing(tracked_files: list[Path]) -> None:
    parts = {
        name_of(path)
        for path in tracked_files
        if path.suffix == ".py" and {*path.relative_to(ROOT).parts, path.stem} & SAID_NOTHING
    }
    assert parts == set()


def test_every_folder_of_modules_is_a_package(shipped_files: list[Path]) -> None:
    """Or the wheel would leave it out without a word."""
    folders = {path.parent for path in shipped_files}
    assert {name_of(folder) for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_every_public_name_exists_and_is_documented(shipped_files: list[Path]) -> None:
    """Public is what has no underscore in front; what a module lists in ``__all__`` is there."""
    faults = []
    for path in shipped_files:
        if path.name == "__main__.py":
            continue
        module = importlib.import_module(dotted_module(path))
        if path.name == "__init__.py" and public_names(path) and not hasattr(module, "__all__"):
            faults.append(f"{name_of(path)}: no __all__")
        for name in {*public_names(path), *getattr(module, "__all__", ())}:
            if not hasattr(module, name):
                faults.append(f"{name_of(path)}: {name} is in __all__ and not in the module")
                continue
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
                faults.append(f"{name_of(path)}: {name} has no docstring")
    assert faults == []


def test_no_global_random_numbers(shipped_files: list[Path]) -> None:
    faults = []
    for path in shipped_files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if "random" in imported(tree):
            faults.append(f"{name_of(path)}: the module random")
        for call in unrestored_calls(tree):
            if why := draws_globally(call):
                faults.append(f"{name_of(path)}:{call.lineno}: {why}")
    assert faults == [], "use fedrec.seeds"


def unrestored_calls(node: ast.AST) -> Iterator[ast.Call]:
    """All calls, but for those where torch's generator is set back: under ``fork_rng``.

    So it is where a client model builds its module: in ``__init__`` of a `torch.nn.Module`.
    """
    if isinstance(node, ast.Call):
        yield node
    if isinstance(node, ast.ClassDef) and {dotted(base) for base in node.bases} & {"nn.Module"}:
        for each in node.body:
            if getattr(each, "name", "") != "__init__":
                yield from unrestored_calls(each)
        return
    if isinstance(node, ast.With) and any(
        isinstance(item.context_expr, ast.Call)
        and dotted(item.context_expr.func) == "torch.random.fork_rng"
        for item in node.items
    ):
        return
    for child in ast.iter_child_nodes(node):
        yield from unrestored_calls(child)


def draws_globally(call: ast.Call) -> str:
    """Why a call depends on, or sets, the state of a global generator; "" if it does not."""
    name = dotted(call.func)
    head, _, last = name.rpartition(".")
    if head in ("np.random", "numpy.random") and last not in NUMPY_GENERATORS:
        return name
    if last == "default_rng" and not call.args and not call.keywords:
        return f"{name} without a seed"
    if head == "torch" and last in TORCH_SEEDS:
        return name
    given = {keyword.arg for keyword in call.keywords}
    if head == "torch" and last in TORCH_DRAWS and "generator" not in given:
        return f"{name} without a generator"
    return ""


def test_the_check_for_random_numbers_sees_them() -> None:
    bad = ("np.random.rand(3)", "torch.manual_seed(0)", "torch.randn(3)", "np.random.default_rng()")
    good = ("np.random.default_rng(3)", "torch.randn(3, generator=g)", "model.random(3)", "f()(1)")
    assert all(draws_globally(call_of(text)) for text in bad)
    assert not any(draws_globally(call_of(text)) for text in good)
    forked = "with {}():\n    torch.manual_seed(0)\ntorch.seed()"
    for context, n_calls in (("torch.random.fork_rng", 1), ("torch.no_grad", 3)):
        assert len([*unrestored_calls(ast.parse(forked.format(context)))]) == n_calls
    module = "class M(nn.Module):\n    def {}(self):\n        torch.randn(3)"
    for name, n_calls in (("__init__", 0), ("forward", 1)):
        assert len([*unrestored_calls(ast.parse(module.format(name)))]) == n_calls


def call_of(text: str) -> ast.Call:
    node = ast.parse(text, mode="eval").body
    assert isinstance(node, ast.Call)
    return node


def test_no_pickle(shipped_files: list[Path]) -> None:
    faults = []
    for path in shipped_files:
        if name_of(path) in PICKLE_OF_RAY:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        faults += [f"{name_of(path)}: {name}" for name in set(imported(tree)) & PICKLES]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = dotted(node.func)
            allowed = [keyword for keyword in node.keywords if keyword.arg == "allow_pickle"]
            trusting = any(ast.unparse(keyword.value) != "False" for keyword in allowed)
            keywords = {ast.unparse(keyword) for keyword in node.keywords}
            if name == "torch.load" and "weights_only=True" in keywords:
                trusting = name_of(path) not in LOADS_WEIGHTS
            elif name in ("torch.save", "torch.load") or name.endswith("_pickle"):
                trusting = True
            if trusting:
                faults.append(f"{name_of(path)}:{node.lineno}: {name}")
    assert faults == []


def test_examples_in_docstrings_run(shipped_files: list[Path]) -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for path in shipped_files:
        if ">>>" in path.read_text(encoding="utf-8"):
            module = importlib.import_module(dotted_module(path))
            for example in finder.find(module, module.__name__):
                runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0, "the failing example is printed above"


def dotted_module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public_names(path: Path) -> list[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [
        node.name
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]
