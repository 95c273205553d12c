"""The section ``engine`` of an experiment."""

from typing import Any, Literal

from pydantic import Field

from fedrec.plugins import Count, Section

__all__ = ["Engine"]


class Engine(Section):
    """What the run is executed on. No choice here changes a bit of the result.

    There is one exception: models that `torch.func.vmap` computes keep it to rounding.

    Args:
        name: ``ray``, ``serial``, ``flower``, or ``auto``: Ray where it is installed.
        workers: processes, or ``auto``: one per core.
        nodes: logical nodes among which the clients are dealt, or ``auto``: one per worker.
        address: of a running Ray cluster (``ray`` only); None starts one on this machine.
        gpus_per_worker: share of a GPU that Ray reserves for each worker.
        start_timeout: seconds that a Ray worker may wait for its cores and start (``ray`` only);
            before it gives up, a line says what it waits for.
        chunk: clients trained in one computation.
    """

    name: Literal["auto", "serial", "ray", "flower"] = "auto"
    workers: Count | Literal["auto"] = "auto"
    nodes: Count | Literal["auto"] = "auto"
    address: str | None = None
    gpus_per_worker: float = Field(0.0, ge=0)
    start_timeout: float = Field(300.0, gt=0)
    chunk: int = Field(64, ge=1)

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say what the engine does not use."""
        if self.name == "serial":
            why = "the serial engine is one process"
            return self.unused(why, "workers", "address", "gpus_per_worker", "start_timeout")
        only_ray = self.unused(
            "only ray joins a cluster and waits for it", "address", "start_timeout"
        )
        return only_ray if self.name == "flower" else []
