"""The models of a client in a step: the shared one, its own, and what is between them."""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.batch import Tensors
from fedrec.compute.operations import gather
from fedrec.errors import check_shapes
from fedrec.personalization.base import View
from fedrec.training.clipping import clients_of_owners
from fedrec.training.forward import Forward, spread
from fedrec.training.plan import Step
from fedrec.training.task import ClientTask


def value_in(
    task: ClientTask, view: View, name: str, shared: Tensor, copy: Tensor, of_clients: Tensors
) -> Tensor:
    """Return the value of a parameter in the model of a view, float [n, *shape], checked.

    Args:
        task: The personalization.
        view: ``mixed`` or ``local``.
        name: The parameter.
        shared: float [n, *shape], the value that is not a copy.
        copy: float [n, *shape].
        of_clients: The numbers of the personalization, float [n].
    """
    numbers = {n: value.reshape(-1, *[1] * (copy.dim() - 1)) for n, value in of_clients.items()}
    value = task.personalization.parameter(view, name, shared, copy, numbers)
    check_shapes(f"{task.personalized}: parameter of '{name}'", {"": value}, {"": shared})
    return value


def numbers_of_clients(task: ClientTask) -> list[str]:
    """Return the names of the single numbers that the personalization has of each client."""
    specs = task.specs()
    return [
        n for n in task.personalization_params() if specs[n].axis == "client" and not specs[n].shape
    ]


def forward_in_view(forward: Forward, view: View) -> Forward:
    """Return a model on the pairs of a step, with the values of a view.

    Args:
        forward: With the values of the step as they are.
        view: Which model.
    """
    task, step = forward.task, forward.step
    copies = {} if view == "global" else task.copies()
    values, numbers = dict(forward.values), numbers_of_clients(task)
    for name_of_copy, name in copies.items():
        axis = str(task.specs()[name_of_copy].axis)
        shared, copy = forward.values[name], forward.values[name_of_copy]
        if axis == "positive":
            owners = step.owners[axis]
            client = torch.as_tensor(step.owners["client"].index)
            has_copy = torch.as_tensor(owners.index < len(owners.present))
            has_copy = has_copy.reshape(-1, *[1] * (shared.dim() - 1))
            copy = torch.where(has_copy, spread(copy, owners), shared.detach())
        else:
            client = clients_of_owners(step, axis)
        of_clients = {n: gather(forward.values[n], client) for n in numbers}
        values[name] = value_in(task, view, name, shared, copy, of_clients)
    return Forward(task, step, values, forward.keys) if copies else forward


def penalties(
    task: ClientTask,
    step: Step,
    values: Mapping[str, Tensor],
    received: Mapping[str, Tensor],
    trained: Collection[str],
) -> list[Tensor]:
    """Return the personalization's terms of the loss of the copies that a step trains.

    Args:
        task: The personalization.
        step: The step.
        values: Of the step, as `Forward.values`.
        received: What is copied, as the round began: of item tables the local rows, else a value
            per client or user.
        trained: Names of what is trained.
    """
    terms = []
    for name_of_copy, name in task.copies().items():
        if name_of_copy not in trained:
            continue
        owners = step.owners[str(task.specs()[name_of_copy].axis)]
        at = torch.as_tensor(owners.present)
        if name in task.tables():
            index, first = np.unique(owners.index, return_index=True)
            at = step.local_rows[torch.as_tensor(first[index < len(owners.present)])]
        copy = values[name_of_copy]
        term = task.personalization.penalty(name, copy, received[name].index_select(0, at))
        if term is not None:
            terms.append(term)
    return terms
