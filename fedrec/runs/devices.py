"""What of an experiment devices can run, each of which has its own users' data alone."""

from dataclasses import dataclass

from fedrec.baselines.base import Baseline
from fedrec.config.experiment import Experiment
from fedrec.data.device import needs_others
from fedrec.errors import ConfigError
from fedrec.evaluation.metrics import ExposureMetric


def check_for_devices(experiment: Experiment) -> None:
    """Check that nothing of an experiment needs the data of other devices, or tells of one.

    Raises:
        ConfigError: With one line for each setting, and the way out.
    """
    if isinstance(experiment.model, Baseline):
        raise ConfigError("model: a centralised baseline has no clients, so devices cannot run it")
    faults = needs_others(experiment.data, experiment.clients)
    evaluate = experiment.evaluate
    settings = {
        "train.negative_sampling: popularity counts the users of each item, and nobody sums these "
        "counts over devices; use uniform": experiment.train.negative_sampling == "popularity",
        "evaluate.slices: tells items apart by how many users have them; leave it out": bool(
            evaluate.slices
        ),
        "evaluate.rerank: its first stage sees the items of all users; leave it out": (
            evaluate.rerank is not None
        ),
        "evaluate.targets: are chosen among the items of all users; leave it out": (
            evaluate.targets is not None
        ),
        "transforms: an attack knows data of others; leave it out": experiment.attack is not None,
    }
    faults += [line for line, is_set in settings.items() if is_set]
    faults += [
        f"evaluate.metrics: {label} needs the lists of all users, which are their recommendations "
        "and stay on devices; leave it out"
        for label in exposure_metrics(experiment)
    ]
    if faults:
        raise ConfigError(*faults)


def exposure_metrics(experiment: Experiment) -> list[str]:
    """Return the labels of the metrics that need the lists of all users."""
    metrics = experiment.evaluate.parsed()
    return [each.label for each in metrics if isinstance(each, ExposureMetric)]


@dataclass(frozen=True, slots=True)
class ForDevices:
    """An experiment as devices run it.

    Args:
        experiment: Without metrics that need the lists of all users.
        notes: What the result will not say, a line each.
    """

    experiment: Experiment
    notes: tuple[str, ...]


def for_devices(experiment: Experiment) -> ForDevices:
    """Leave out of an experiment the metrics that need the lists of all users.

    Raises:
        ConfigError: As `check_for_devices`.
    """
    absent, notes = exposure_metrics(experiment), []
    if absent:
        evaluate = experiment.evaluate
        metrics = tuple(label for label in evaluate.metrics if label not in absent)
        experiment = experiment.model_copy(
            update={"evaluate": evaluate.model_copy(update={"metrics": metrics})}
        )
        notes.append(
            f"evaluate.metrics: {', '.join(absent)} are absent: they need the lists of all users, "
            "which stay on devices"
        )
    check_for_devices(experiment)
    notes.append(
        "the scores of popularity are absent: the server of devices does not see who has which "
        "item; rounds.patience goes by validation alone"
    )
    return ForDevices(experiment, tuple(notes))
