"""All decoders that are fuzzed, by the name that they have on the command line."""

from collections.abc import Mapping, Sequence
from types import ModuleType

from tests.fuzz.targets.base import Target
from tests.fuzz.targets.checkpoints import CheckpointTarget, LogTarget, MappedTarget
from tests.fuzz.targets.evaluations import MeasuredTarget
from tests.fuzz.targets.experiments import ExperimentTarget
from tests.fuzz.targets.messages import (
    DescriptionTarget,
    DownTarget,
    EnrolmentTarget,
    EvaluationTarget,
    RequestTarget,
    RollCallTarget,
)
from tests.fuzz.targets.payloads import PayloadTarget
from tests.fuzz.targets.private_state import (
    NodeFileTarget,
    OwnFileTarget,
    StateTarget,
    ValuesTarget,
)
from tests.fuzz.targets.replies import TrainedTarget
from tests.fuzz.targets.rosters import EnrolledTarget, FleetTarget, HostedTarget
from tests.fuzz.targets.secure_sums import SumReplyTarget, SumRequestTarget

_ALL: tuple[type[Target], ...] = (
    *(DescriptionTarget, ExperimentTarget, RequestTarget, DownTarget),
    *(RollCallTarget, HostedTarget, EnrolmentTarget, EnrolledTarget),
    *(EvaluationTarget, MeasuredTarget, TrainedTarget, PayloadTarget),
    *(SumReplyTarget, SumRequestTarget),
    *(CheckpointTarget, LogTarget, MappedTarget, FleetTarget),
    *(StateTarget, ValuesTarget, NodeFileTarget, OwnFileTarget),
)
TARGETS: Mapping[str, type[Target]] = {target.name: target for target in _ALL}


def decoders() -> Mapping[ModuleType, Sequence[str]]:
    """Return all modules whose lines are to be reached; of each the functions, or none for all."""
    functions: dict[ModuleType, Sequence[str]] = {}
    for target in TARGETS.values():
        for module, names in target.decoders.items():
            all_of_it = not names or functions.get(module, names) == ()
            functions[module] = () if all_of_it else (*functions.get(module, ()), *names)
    return functions
