"""One place moves data between devices: elsewhere nothing says where a tensor lies."""

import ast
from pathlib import Path

from tests.architecture.test_modules import ROOT, dotted, name_of

COMPUTING = ("fedrec/compute", "fedrec/evaluation", "fedrec/personalization", "fedrec/training")
THE_PLACE = "fedrec/compute/device.py"


def moves(call: ast.Call) -> str:
    """How a call ties values to the CPU, or moves them; "" if it does not."""
    name = dotted(call.func)
    if name in ("torch.from_numpy", "torch.device", "torch.set_default_device"):
        return name
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    return method if method in ("cpu", "cuda", "numpy") else ""


def test_nothing_but_one_module_moves_data(shipped_files: list[Path]) -> None:
    faults = []
    for path in shipped_files:
        if name_of(path).startswith(COMPUTING) and name_of(path) != THE_PLACE:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and (how := moves(node)):
                    faults.append(f"{name_of(path)}:{node.lineno}: {how}")
    assert faults == [], "use torch.as_tensor and fedrec.compute.device"


def test_the_check_for_moves_sees_them() -> None:
    bad = ("torch.from_numpy(a)", "x.numpy()", "f(x).cpu()", "x[0].cuda()", "torch.device('cpu')")
    good = ("torch.as_tensor(a)", "to_array(x)", "np.zeros(3)", "f()()", "torch.zeros(3)")
    calls = {text: ast.parse(text, mode="eval").body for text in (*bad, *good)}
    found = {text for text, call in calls.items() if isinstance(call, ast.Call) and moves(call)}
    assert found == set(bad)
    assert (ROOT / THE_PLACE).is_file()
