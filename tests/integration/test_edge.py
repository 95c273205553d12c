"""A device needs nothing of the extra 'sim', not even where it is installed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.device_fleet import make_devices
from tests.integration.test_devices import OWNERS, experiment_of

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("edge_device.py")


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"name": "neumf", "embedding_dim": 8}, "personalization": "fedrep"},
        {"transforms": [{"name": "clip", "norm": 1.0}, "int8"]},
        {"model": {"name": "sasrec", "embedding_dim": 8}, "personalization": "none"},
    ],
    ids=["plgc-mf", "fedrep-neumf", "transforms", "sasrec"],
)
def test_a_device_lives_without_what_a_simulation_needs(
    tmp_path: Path, sections: dict[str, Any]
) -> None:
    metrics = {"metrics": ["ndcg@5", "hit_rate@5"]}
    experiment = experiment_of(**{**sections, "evaluate": metrics})
    [folder, *_] = make_devices(experiment, experiment.data.load(), OWNERS, tmp_path / "devices")
    (folder / "experiment.json").write_text(experiment.for_nodes(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "3 []"
