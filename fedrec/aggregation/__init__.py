"""Sums of updates: exact, associative, the same bits for any grouping."""
