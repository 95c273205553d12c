"""The section ``engine``: what a run is executed on."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from fedrec.compute.device import Precision
from fedrec.models.base import Model
from fedrec.plugins import Count, Section, shown

_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_CLIENTS_ON_CPU = 64
_CLIENTS_ON_GPU = 512


def _bytes(value: Any) -> Any:
    """Return how many bytes a text such as ``2GiB`` says; what is no text stays."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]iB|)", value)
    if match is None:
        raise ValueError(f"expected bytes, such as 500MiB or 2GiB, got {shown(value)}")
    return int(float(match[1]) * _UNITS[match[2]])


class Engine(Section):
    """What the run is executed on. No choice here changes a bit of the result.

    There are exceptions: models that `torch.func.vmap` computes keep it to rounding, and so does a
    GPU. ``precision`` changes what is computed.

    Args:
        name: ``ray``, ``serial``, ``flower``, or ``auto``: Ray where it is installed and saves more
            time than its start costs, else ``serial``, also where there is a GPU for the model.
        workers: processes, or ``auto``: one per core.
        nodes: logical nodes among which the clients are dealt, or ``auto``: one per worker.
        address: of a running Ray cluster, ``host:port`` or ``auto``, of which this machine is a
            part (``ray`` only); None starts one on this machine.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: a GPU where there is one for each
            worker. Models that are ``flat``, and numba, compute on the CPU.
        gpus_per_worker: share of a GPU that is reserved for each worker.
        cpus_per_worker: cores that are reserved for each worker; None: one on a cluster, none on a
            Ray that the run starts itself.
        threads: threads of torch in each worker.
        precision: ``float32``; or ``bf16`` or ``fp16`` for the model and its loss while training,
            where torch's autocast allows it. Parameters, gradients and what is ranked by stay
            float32.
        memory: what clients that are trained together may take, and their updates until they are
            summed, such as ``2GiB``; counted are parameters, their gradients and optimizers, not
            what the model holds within. None: little on the CPU, where the cache is the limit, and
            a quarter of a GPU.
        state_limit: what all clients may remember between rounds, on disk, such as ``2GiB``: their
            private values, those of their optimizer, of the strategy's client rule and of
            transforms; a run that needs more is refused before it begins. Nodes stage the values of
            a round, and copy those that are ranked with, beside it. The same holds of what the
            server may remember for the strategy.
        start_timeout: seconds that a Ray worker may wait for its cores and start (``ray`` only);
            before it gives up, a line says what it waits for.
        chunk: clients trained in one computation at most, or ``auto``: 64, on a GPU 512.
    """

    name: Literal["auto", "serial", "ray", "flower"] = "auto"
    workers: Count | Literal["auto"] = "auto"
    nodes: Count | Literal["auto"] = "auto"
    address: str | None = None
    device: str = "auto"
    gpus_per_worker: float = Field(0.0, ge=0)
    cpus_per_worker: float | None = Field(None, gt=0)
    threads: int = Field(1, ge=1)
    precision: Precision = "float32"
    memory: Annotated[Annotated[int, Field(ge=2**20)] | None, BeforeValidator(_bytes)] = None
    state_limit: Annotated[int, Field(ge=0), BeforeValidator(_bytes)] = 16 * 2**30
    start_timeout: float = Field(300.0, gt=0)
    chunk: Count | Literal["auto"] = "auto"

    @field_validator("address")
    @classmethod
    def _is_no_client(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("ray://"):
            raise ValueError(
                f"{value} is for Ray's client, which fedrec does not use; run on a machine of the "
                "cluster and give the address of its head, such as 10.0.0.1:6379, or auto"
            )
        return value

    @field_validator("device")
    @classmethod
    def _is_one(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {shown(value)}")
        return value

    def clients_together(self, device: str) -> int:
        """Return how many clients are trained in one computation at most."""
        if self.chunk != "auto":
            return self.chunk
        return _CLIENTS_ON_CPU if device == "cpu" else _CLIENTS_ON_GPU

    def without_effect(self, run: Any) -> list[str]:
        """Say what the engine, or the executor, does not use."""
        lines, why = [], "only ray joins a cluster and waits for it"
        if self.name == "serial":
            why = "the serial engine is one process"
            lines = self.unused(why, "workers", "gpus_per_worker", "cpus_per_worker")
        if self.name in ("serial", "flower"):
            lines += self.unused(why, "address", "start_timeout")
        if not isinstance(run.experiment.model, Model):
            return lines
        executor = run.task.executor()
        if executor in ("numba", "flat"):
            lines += self.unused(f"{executor} computes on the CPU, in float32", "precision")
        if executor == "numba":
            lines += self.unused("numba trains client by client", "chunk")
        if self.name != "serial" and (self.device == "cpu" or executor in ("numba", "flat")):
            why = "engine.device is cpu" if self.device == "cpu" else f"{executor} uses the CPU"
            lines += self.unused(why, "gpus_per_worker")
        if self.device.startswith("cuda") and executor in ("numba", "flat"):
            lines.append(f"device: {self.device} has no effect: {executor} computes on the CPU")
        return lines
