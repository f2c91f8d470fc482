"""The run folder: its card, its checkpoints, its readers, and how it reaches the hub."""
