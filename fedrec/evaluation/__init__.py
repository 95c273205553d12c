"""Ranking of the whole catalogue, and the metrics of it."""
