"""Local training: one client, or many in one computation."""
