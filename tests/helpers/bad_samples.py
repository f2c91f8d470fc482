"""Bad prompts, rewards and options of `likelier sample`, for `test_bad_input.py`."""

from __future__ import annotations

import json

from tests.helpers.bad_inputs import Case

ASK = json.dumps({"prompt": [{"role": "user", "content": "Ask"}], "answer": "Yes"}) + "\n"
SAMPLE = "sample --model %model --data @prompts.jsonl --output @out.jsonl --answers 2 --max-new-tokens 2"
MADE = json.dumps({"prompt_number": 1, "answer_number": 1, "sampled": {"temperature": 0.5}}) + "\n"


def _case(title: str, more: str = "", prompts: str = ASK, **files: str) -> Case:
    named = {name.replace("_", "."): content for name, content in files.items()}
    return Case(title, f"{SAMPLE} {more}".rstrip(), {"prompts.jsonl": prompts, **named})


def _reward(title: str, returns: str) -> Case:
    code = f"def reward(completions, **others):\n    {returns}\n"
    return _case(title, "--reward @judge.py:reward", judge_py=code)


SAMPLES = [
    _case("prompts under another name", prompts='{"question": "Ask", "answer": "Yes"}\n'),
    Case("a made-up task that is not known", SAMPLE.replace("@prompts.jsonl", "gym:leg_count")),
    _case("empty prompts", prompts='{"prompt": " "}\n'),
    _case("prompts over the limit", "--max-prompt-length 3"),
    _case("a prompt over the limit where there must be none", "--max-prompt-length 3 --prompt-truncation error"),
    _case("no room for a prompt", "--max-new-tokens 4096"),
    _case("several answers at temperature 0", "--temperature 0"),
    _case("a share of chance above 1", "--top-p 1.5"),
    _case("a cut without effect", "--answers 1 --temperature 0 --top-k 5"),
    _case("a system turn folded that is not there", "--fold-system"),
    _case("weights without a reward", "--reward-weights 1"),
    _case("a reward that is not known", "--reward lenght:5"),
    _case("a reward whose column is not there", "--reward exact:solution"),
    _reward("a reward that raises", "raise ValueError('no verdict on Mondays')"),
    _reward("a reward of the wrong number", "return [1.0]"),
    _reward("a reward that is text", "return ['good'] * len(completions)"),
    _reward("a reward that is not a number", "return [float('nan')] * len(completions)"),
    _case("pairs without a reward", "--pairs all --pairs-output @prefs.jsonl"),
    _case("pairs without a file", "--pairs all --reward json"),
    _case("a threshold for the best and the worst", "--pairs best-worst --threshold 1 --reward json --pairs-output @p"),
    _case("answers onto the prompts", "--output @prompts.jsonl"),
    _case("answers onto a file of the user's", out_jsonl='{"mine": 1}\n'),
    _case("answers onto others, made otherwise", out_jsonl=MADE),
]
