"""Plain local training."""

from fedrec.training.client_rule import ClientRule


class Plain(ClientRule):
    """Clients take steps along the gradient of their own loss, and nothing else."""
