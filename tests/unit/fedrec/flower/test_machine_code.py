"""Machine code of another processor is named."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from fedrec.flower.machine_code import VARIABLES, difference, machine_code

SCRIPT = "from fedrec.flower.machine_code import machine_code; print(machine_code())"


def test_the_same_is_not_named() -> None:
    assert difference(machine_code(), machine_code()) == ""


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"BLAS": "SkylakeX"}, "(BLAS for SkylakeX, here Haswell)"),
        ({"BLAS": "Zen", "torch": "AVX512"}, "(BLAS for Zen, here Haswell, torch for AVX512, here"),
        ({"numba": "none"}, "set NUMBA_CPU_NAME here to what all machines have"),
    ],
)
def test_another_is_named_with_the_variables(there: Mapping[str, str], said: str) -> None:
    here = {"BLAS": "Haswell", "torch": "AVX2", "numba": "znver3"}
    assert said in difference(here, {**here, **there})


@pytest.mark.parametrize(("name", "value"), [("torch", "default"), ("numba", "generic")])
def test_the_variables_choose_it(name: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, VARIABLES[name]: value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"'{name}': '{value}'" in done.stdout.replace("DEFAULT", "default")
