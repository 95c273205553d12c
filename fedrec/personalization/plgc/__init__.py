"""Personalized Local and Global Collaboration (PLGC)."""

from fedrec.personalization.plgc.plgc import PLGC

__all__ = ["PLGC"]
