"""What a run is made from; it continues only with the same."""

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel

from fedrec.config.experiment import Experiment
from fedrec.config.sources import source_hashes
from fedrec.config.yaml import flatten
from fedrec.data.prepare import version_of
from fedrec.errors import ConfigError, RunFolderError
from fedrec.flower.processes import code_hash
from fedrec.plugins import shown
from fedrec.runs.folder import SOURCE, sha256_of
from fedrec.runs.open_run import OpenRun

# What may change: none of it changes a bit of a round. Data, features and devices are compared by
# content.
FREE = re.compile(
    r"engine\..*|rounds\.(count|patience|devices\.path)|data\.(items\.)?path|"
    r"features\.\w+\.(path|table|tokenizer)"
)
# Differences that a message names.
NAMED = 4
# What is said of a run folder where something else is not what it was.
DIFFERENT = {
    "data": "the data is not what it was (version {now:.8}, was {before:.8}); bring the old data "
    "back, or start a new run with another --out",
    "catalogue": "the features are those of another catalogue (version {now:.8}, was {before:.8}); "
    "bring the old files and encoders back, or start a new run with another --out",
    "weights": "the frozen weights of the model are not what they were (hash {now:.8}, was "
    "{before:.8}); bring the old model back, or start a new run with another --out",
    "devices": "the devices are not what they were (hash {now:.8}, was {before:.8}); bring the old "
    "file back, or start a new run with another --out",
    "executor": "train.backend means '{now}' in this installation, where the run began it meant "
    "'{before}', which gives other bits; continue it there, or start a new run with another --out",
    "code": "the code of fedrec is not what it was (hash {now:.8}, was {before:.8}); go back to "
    "that version, or add --accept-other-code to continue with this one",
}


class Origin(BaseModel, frozen=True):
    """What a run is made from.

    Args:
        config: The experiment, as values of JSON.
        data: Hash of the prepared data.
        catalogue: Hash of the items with their columns and features.
        weights: Hash of the frozen weights of the model.
        code: Hash of fedrec's code.
        executor: What trains the clients.
        nodes: Among how many nodes the clients are dealt.
        sources: Hash of each source file of plug-ins that are not fedrec's own.
        devices: Hash of the devices of all clients; "" where no virtual clock runs.
    """

    config: Mapping[str, Any]
    data: str
    catalogue: str
    weights: str
    code: str
    executor: str
    nodes: int
    sources: Mapping[str, str] = {}
    devices: str = ""

    @classmethod
    def of(cls, run: OpenRun, nodes: int) -> Self:
        """Return what a run is made from here and now."""
        return cls(
            config=run.experiment.model_dump(mode="json"),
            data=version_of(run.prepared),
            catalogue=run.catalogue.hash,
            weights=run.task.weights,
            code=code_hash(),
            executor=run.executor or "",
            nodes=nodes,
            sources=source_hashes(run.experiment),
            devices=run.fleet.hash if run.fleet is not None else "",
        )

    def check_config(self, where: str, experiment: Experiment) -> None:
        """Check that an experiment is this one, but for what changes no bit of a round.

        Raises:
            ConfigError: Names what differs.
        """
        was, now = flatten(self.config), flatten(experiment.model_dump(mode="json"))
        keys = [
            key
            for key in dict.fromkeys([*was, *now])
            if was.get(key) != now.get(key) and not FREE.fullmatch(key)
        ]
        # Another plug-in has other settings: its name is enough.
        others = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
        changed = [
            f"{key} is {shown(now.get(key))}, was {shown(was.get(key))}"
            for key in keys
            if key.endswith(".name") or not key.startswith(others)
        ]
        if changed:
            more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
            raise ConfigError(
                f"{where}: is not what was run: {'; '.join(changed[:NAMED])}{more}; a run goes on "
                "only with another engine, rounds.count or rounds.patience: set it back, or start "
                "a new run with another --out"
            )

    def check(self, run: OpenRun, accept_other_code: bool) -> None:
        """Check that a run that is to continue is made from the same.

        Raises:
            FedRecError: Names what differs, and the way out.
        """
        if run.engine is not None and run.engine.nodes != self.nodes:
            raise ConfigError(
                f"engine.nodes: {run.engine.nodes}, but the local state lies on {self.nodes} "
                f"nodes; write {self.nodes} or 'auto'"
            )
        now = Origin.of(run, self.nodes)
        for name in sorted({*self.sources, *now.sources}):
            recorded, kept = self.sources.get(name), run.folder / SOURCE / name
            if accept_other_code or recorded == now.sources.get(name):
                continue
            way_out = f"the source of then is {kept}: put it back"
            if recorded is None:
                way_out = "the run began without it: go back to the source of then"
            elif not kept.is_file() or sha256_of(kept) != recorded:
                way_out = f"nor is its copy, {kept}: bring the source of then back"
            what = "is not what it was when the run began" if name in now.sources else "is missing"
            raise RunFolderError(
                f"{name}: {what}; {way_out}, start a new run with "
                "another --out, or add --accept-other-code to continue with the new source"
            )
        for fact, said in DIFFERENT.items():
            values = {"now": getattr(now, fact), "before": getattr(self, fact)}
            if values["now"] != values["before"] and not (fact == "code" and accept_other_code):
                raise RunFolderError(f"{run.folder}: {said.format(**values)}")
