"""Rewards of sampled answers: functions, verifiers, models and services, by name (see `load.load_rewards`)."""
