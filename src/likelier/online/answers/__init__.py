"""Answers of a policy in a file: written, rewarded, gone on with, and made into pairs."""
