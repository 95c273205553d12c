"""No personalization beyond the model's own local parameters."""

from fedrec.personalization.base import Personalization

__all__ = ["NoPersonalization"]


class NoPersonalization(Personalization):
    """All clients score with the same global item table."""
