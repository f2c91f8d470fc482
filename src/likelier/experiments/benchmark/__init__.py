"""Is it better elsewhere, and what was forgotten? The model before and after a run, on tasks of other things."""
