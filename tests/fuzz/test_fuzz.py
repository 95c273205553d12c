"""What is damaged or made up is read as what it must be, or refused in one line.

`python -m tests.fuzz` does the same with as many inputs as it is given.
"""

import sys
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutated
from tests.fuzz.session import corpus_of
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets.base import Target

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="bounds memory and time as Linux does"),
    pytest.mark.filterwarnings("ignore"),  # of numpy, about what is damaged
]


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    return TARGETS[request.param](tmp_path_factory.mktemp("fuzz") / "work")


def test_valid_inputs_are_read(target: Target) -> None:
    assert all(target.attempt(files) for files in target.seeds)


def test_kept_inputs_are_read_or_refused(target: Target) -> None:
    for files in corpus_of(target):
        target.attempt(files)


@settings(deadline=None, max_examples=200, suppress_health_check=[*HealthCheck])
@given(rng=st.randoms())
def test_damaged_inputs_are_read_or_refused(target: Target, rng: Random) -> None:
    target.attempt(mutated(rng.choice(target.seeds), target.seeds, rng))
