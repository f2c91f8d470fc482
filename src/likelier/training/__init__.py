"""Training: options and configuration of a run, the trainer and its parts, evaluation, merging."""
