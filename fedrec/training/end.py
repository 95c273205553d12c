"""The end of a run: what clients begin with who train once more, from the chosen round."""

import numpy as np

from fedrec.training.draws import Layout
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Shard


def begin_end(task: ClientTask, shard: Shard, params: Params, private: Params) -> Params:
    """Return the private values with which clients begin the phases at the end.

    Copies that no round has trained begin as what they are copies of. What private optimizers
    remember begins as 0, as before the first round.

    Args:
        task: Of the end, see `ClientTask.at_end`.
        shard: The clients.
        params: The shared parameters of the chosen round.
        private: The private parameters of the chosen round, in the order of the clients.
    """
    layout, begun = Layout.of(task, shard), dict[str, FloatArray]()
    owners = {axis: int(offsets[-1]) for axis, offsets in layout.offsets.items()}
    for name, spec in task.stored_specs().items():
        axis, original = spec.axis or "", task.copies().get(name)
        if name in task.private() and name in private:
            begun[name] = private[name]
        elif original is None:
            begun[name] = np.zeros((owners[axis], *spec.shape), spec.dtype)
        elif original in private:
            begun[name] = private[original]
        elif axis == "positive":
            begun[name] = params[original][layout.positives.values]
        else:
            begun[name] = np.repeat(params[original][np.newaxis], owners[axis], axis=0)
    return begun
