"""Preference optimization on answers that the policy itself writes: sampling, rewards, and the loops over both."""
