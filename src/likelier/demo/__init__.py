"""The built-in preference set: answer honestly instead of agreeing with a false or sweeping claim.

`honest_answers.jsonl` has 184 hand-written pairs (138 to train on, 46 held out on other topics), English and Chinese,
with the claim's kind (`false`, `sweeping`, `true`) and topic. Chosen and rejected answers are of like length.
"""
