"""The report of a run: its account in words, its curves, distributions and examples, on one page."""
