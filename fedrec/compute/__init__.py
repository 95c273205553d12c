"""Deterministic tensor operations and the batches that they work on."""
