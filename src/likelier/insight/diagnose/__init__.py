"""What is wrong with a run, in words: verdicts, the numbers that led to them, what they mean, what to try.

`diagnose` reads a run's files and gives verdicts; `checks` holds the table of checks, one module for each family of
diseases, `catalogue` the names. Thresholds stand as constants at the top of the modules.
"""

from likelier.insight.diagnose.checks import CHECKS, diagnose, live_warnings

__all__ = ["CHECKS", "diagnose", "live_warnings"]
