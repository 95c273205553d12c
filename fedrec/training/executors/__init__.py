"""Executors: each computes the same update, on its own terms."""
