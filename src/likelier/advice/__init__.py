"""Advice before training: which method, which settings, and whether it fits."""
