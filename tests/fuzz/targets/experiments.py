"""The experiment that a server sends to a node, as JSON."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import ClassVar

from fedrec.config import experiment
from fedrec.config.experiment import load_experiment, received_experiment
from fedrec.errors import ConfigError, FedRecError
from tests.fuzz.files import ROOT, Files
from tests.fuzz.targets.base import Target

_TEXT = "experiment"


class ExperimentTarget(Target):
    """An experiment, before anything of it is computed."""

    name = "experiment"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {experiment: ("received_experiment",)}
    documented: ClassVar[tuple[type[FedRecError], ...]] = (ConfigError,)

    def valid(self) -> Sequence[Files]:
        """Return experiments that ship."""
        names = ("plgc-mf.yaml", "strategies/clustered.yaml", "strategies/scaffold.yaml")
        shipped = [load_experiment(ROOT / "experiments" / "ml-100k" / name) for name in names]
        return [{_TEXT: each.for_nodes().encode()} for each in shipped]

    def run(self, files: Files) -> None:
        """Read an experiment; what is read can be sent, and read as the same."""
        text = files.get(_TEXT, b"").decode(errors="replace")
        received = received_experiment(text, self.folder)
        assert received_experiment(received.for_nodes(), self.folder) == received
