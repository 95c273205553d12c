"""What a process computes with: libraries choose their machine code by the processor.

That of another processor adds up in another order, so sums round differently.
"""

import os
from importlib.util import find_spec

VARIABLES = {
    "BLAS": "OPENBLAS_CORETYPE",
    "torch": "ATEN_CPU_CAPABILITY",
    "numba": "NUMBA_CPU_NAME",
}
"""Where the user can say which machine code is chosen, by library."""


def chosen_machine_code() -> dict[str, str]:
    """Return what the environment of this process says, by variable; "" where it says nothing."""
    return {name: os.environ.get(name, "") for name in VARIABLES.values()}


def machine_code() -> dict[str, str]:
    """Return for which processor each library has chosen its machine code; those that are here."""
    import torch

    chosen = {"torch": torch.backends.cpu.get_cpu_capability()}
    if find_spec("threadpoolctl") is not None:
        from threadpoolctl import ThreadpoolController

        libraries = ThreadpoolController().info()
        chosen["BLAS"] = "/".join(
            sorted({each.get("architecture") or "" for each in libraries} - {""})
        )
    if find_spec("numba") is not None:
        from llvmlite import binding

        chosen["numba"] = os.environ.get(VARIABLES["numba"]) or binding.get_host_cpu_name()
    return chosen


def difference(here: dict[str, str], there: dict[str, str]) -> str:
    """Return a text about what another process computes with; "" if it is the same."""
    names = [name for name in VARIABLES if here.get(name) != there.get(name)]
    if not names:
        return ""
    pairs = ", ".join(f"{n} for {there.get(n, 'none')}, here {here.get(n, 'none')}" for n in names)
    return (
        f"computes with the machine code of another processor ({pairs}), whose sums may round "
        "differently: which machine computes what may change the result; to prevent that, set "
        f"{' and '.join(VARIABLES[name] for name in names)} here to what all machines have"
    )
