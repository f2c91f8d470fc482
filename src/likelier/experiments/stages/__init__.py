"""Several steps in a row: runs that each go on from the model of the one before, and samples of that model's answers.

One YAML file has a list of `stages`; parts of it may be repeated, round by round. Every run is an ordinary one in a
folder of its own, `OUTPUT/1-sft`, `OUTPUT/2-dpo`, ...; `OUTPUT/run.json` holds the lineage. What stands outside
`stages` is shared by all of them.
"""

from likelier.experiments.stages.plan import Stage, StagedConfig, parse_stages, written_blocks
from likelier.experiments.stages.run import train_stages
from likelier.experiments.stages.sample_step import SampleStage

__all__ = ["SampleStage", "Stage", "StagedConfig", "parse_stages", "train_stages", "written_blocks"]
