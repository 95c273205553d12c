"""The coordinator: who is there, what a round is, what is recorded."""
