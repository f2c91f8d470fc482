"""The built-in pairs as data."""

from __future__ import annotations

import json
from importlib.resources import files

from likelier.data.load import PreferenceData, load_preferences

BUILT_IN = "the built-in pairs"  # what stands in place of a file in run.json


def demo_data() -> PreferenceData:
    """The built-in pairs, split as the file says."""
    lines = files("likelier.data").joinpath("honest_answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    train, test = (
        [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows if row["split"] == split]
        for split in ("train", "test")
    )
    return load_preferences(train, eval_data=test)
