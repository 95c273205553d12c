"""The device: what a node does with a message, and its durable local state."""
