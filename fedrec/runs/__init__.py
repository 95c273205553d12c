"""Runs: start and resume one, record it, read it back."""
