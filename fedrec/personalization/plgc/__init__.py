"""Personalized Local and Global Collaboration (PLGC)."""
