"""Bad rewards, prompts and options of runs that learn from their own answers, for `test_bad_input.py`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.helpers.bad_inputs import Case

ASK = json.dumps({"prompt": [{"role": "user", "content": "Ask"}], "answer": "Yes"}) + "\n"
RUN = "train --model %model --data @prompts.jsonl --output @out --batch-size 2 --max-steps 1 --warmup 0"
PPO = "--max-new-tokens 2 --updates-per-rollout 1"
SHORT = "--answers-per-prompt 2 --max-new-tokens 2"
SETTINGS = "model: '%model'\ndata: '%chat'\noutput: '@out'\n"


def _case(title: str, more: str = "", *, method: str = "grpo", reward: str = "--reward json", **files: str) -> Case:
    named = {name.replace("_", "."): content for name, content in files.items()}
    typed = " ".join(part for part in (f"{RUN} --method {method}", reward, more) if part)
    return Case(title, typed, {"prompts.jsonl": ASK, **named})


def _asked(title: str, data: str, *, method: str = "grpo", reward: str = "") -> Case:
    judged = f" --reward {reward or data}" if method == "grpo" else ""
    return Case(title, f"train --model %model --data {data} --output @out --method {method}{judged}")


def _judge(title: str, does: str, more: str = SHORT) -> Case:
    code = f"import time\n\n\ndef judge(completions, **others):\n    {does}\n"
    return _case(title, more, reward="--reward @judge.py:judge", judge_py=code)


def _endless(folder: Path, made: dict[str, Path]) -> None:
    """A model that names no token as the end of an answer."""
    shutil.copytree(made["model"], folder / "copy")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / "copy" / name
        if path.exists():
            held = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(held | {"eos_token": None, "eos_token_id": None}), encoding="utf-8")


def _begun(folder: Path, made: dict[str, Path]) -> None:
    shutil.copytree(made["online"], folder / "copy")


def _going_on(title: str, more: str) -> Case:
    same = "--data %chat --method grpo --max-new-tokens 4 --answers-per-prompt 2 --batch-size 4 --learning-rate 1e-2"
    command = f"train --model @absent --output @copy --resume {same} --save-steps 1 {more}"
    return Case(title, command, prepare=_begun)


def _file(title: str, command: str, **options: Any) -> Case:
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in options.items())
    return Case(title, command, {"run.yaml": SETTINGS + lines})


def _rounds(title: str, step: dict[str, Any] | None = None, repeat: Any = 2, **learn: Any) -> Case:
    own = {"sample": "@prompts.jsonl", "reward": "json", "answers_per_prompt": 2, "max_new_tokens": 2} | (step or {})
    stages = [{name: value for name, value in own.items() if value is not None}, {"data": "stage:sample", **learn}]
    settings = f"model: '%model'\noutput: '@out'\nrepeat: {json.dumps(repeat)}\nstages: {json.dumps(stages)}\n"
    return Case(title, "train @run.yaml", {"run.yaml": settings, "prompts.jsonl": ASK})


_SERVED = "--sampler vllm --sampler-url"

ONLINE = [
    _case("a server that is to write, and is not named", "--sampler vllm"),
    _case("a server's address where this process writes", "--sampler-url http://127.0.0.1:8000"),
    _case("no address of a server", f"{_SERVED} nowhere --lora-r 4"),
    _case("a server with no time", f"{_SERVED} http://127.0.0.1:8000 --sampler-timeout 0 --lora-r 4"),
    _case("a sampler that is not known", "--sampler sglang"),
    _judge("a reward that raises", "raise ValueError('no verdict on Mondays')"),
    _judge("a reward that hangs", "time.sleep(600)", "--max-new-tokens 2 --reward-timeout 0.2"),
    _judge("a reward that has no verdict on anything", "return [None] * len(completions)"),
    _judge("a reward that is not a number", "return [float('nan')] * len(completions)"),
    _judge("a reward of the wrong number", "return [1.0]"),
    _judge("a reward that is text", "return ['good'] * len(completions)"),
    _case("no reward", reward=""),
    _case("a reward that is not known", reward="--reward lenght:5"),
    _case("a reward whose column is not there", reward="--reward exact:solution"),
    _asked("a made-up task that is not known", "gym:leg_count"),
    _asked("a setting that a made-up task has not", "gym:leg_counting,animals=3"),
    _asked("a value that a made-up task does not take", "gym:leg_counting,max_animals=many"),
    _asked("no made-up questions", "gym:leg_counting,size=0"),
    _asked("made-up questions for a method that learns from pairs", "gym:leg_counting", method="dpo"),
    _asked("made-up questions with a verifier of so many", "gym:leg_counting", reward="gym:leg_counting,size=5"),
    Case("an audit of made-up questions", "audit gym:leg_counting"),
    _case("two weights for one reward", "--reward-weights 1 2"),
    _case("prompts over the limit", "--max-prompt-length 3"),
    _case("a prompt over the limit where there must be none", "--max-prompt-length 3 --prompt-truncation error"),
    _case("no room for a prompt", "--max-new-tokens 4096"),
    _case("a group of one", "--answers-per-prompt 1"),
    _case("a distribution that is cut", "--top-p 0.9"),
    _file("a distribution that is cut, in a file", "train @run.yaml", method="grpo", reward="json", top_k=50),
    _case("answers at temperature 0", "--temperature 0"),
    _case("answers that are all left out", "--max-new-tokens 1 --truncated mask --answers-per-prompt 2"),
    _case("a penalty that is not taken", "--missing-eos-penalty 1"),
    _case("another tool's name", "--beta 0.1"),
    _case("a hyperparameter of another method", "--tau 0.1"),
    _case("a place for a divergence that is not charged", "--kl-place reward"),
    _case("a reference that is not asked", "--reference %model"),
    _case("a clip without effect", "--clip-high 0.2", method="gspo"),
    _case("a weight below 1", "--weight-high 0.2", method="cispo"),
    _case("a clip for a method that clamps", "--clip-low 0.2", method="cispo"),
    _case("a paper's preset where there is no other", "--paper", method="dapo"),
    _case("a critic that learns alone all the time", f"{PPO} --critic-warmup 1", method="ppo"),
    _case("a divergence that is steered and not charged", "--kl-coefficient 0 --kl-target 6", method="ppo"),
    _case("a pace of steering to nothing", "--kl-horizon 100", method="ppo"),
    _case("a score of cut answers that are kept", "--truncated keep --missing-eos-reward -2", method="ppo"),
    _case("a charge for cut answers whose score is replaced", "--missing-eos-penalty 1", method="ppo"),
    _case("a critic beside a policy that is split", "--shard", method="ppo"),
    _case("a critic's weight of nothing", "--value-coefficient 0", method="ppo"),
    _case("a critic in no place", "--critic beside", method="ppo"),
    _case("a mistake of lambda", "--gae-lambda 1.5", method="ppo"),
    _case("what PPO does not choose", "--aggregation sequence-mean", method="ppo"),
    _case("a critic for a method without one", "--critic shared"),
    _case("a rate of a critic for a method without one", "--critic-learning-rate 1e-5", method="online_dpo"),
    _case("one answer to make a pair of", "--answers-per-prompt 1", method="online_dpo"),
    _case("a divergence that is charged where it is in the loss", "--kl-coefficient 0.1", method="online_dpo"),
    _case("votes of answers in a file", "--merge-votes"),
    _case("a length of answers in a file", "--max-length 100"),
    _case("a reward for a method that learns from pairs", method="dpo"),
    _rounds("a stage that cuts the distribution", method="grpo", reward="json", top_k=50),
    _rounds("a stage that names a step by another name", data="stage:sampled"),
    _rounds("a stage that learns from a file instead", data="%chat"),
    _rounds("a step of another command's options", {"answers": 4}),
    _rounds("a step without a reward", {"reward": None}),
    _rounds("a step with more prompts than there are", {"prompts_per_round": 5}),
    _rounds("rounds of no number", repeat="some"),
    Case(
        "advice on prompts, about what lies in files",
        "recommend @p.jsonl --model %model --max-length 9",
        {"p.jsonl": ASK},
    ),
    Case(
        "advice on judgements whose names are mistyped",
        "recommend @p.jsonl --model %model",
        {"p.jsonl": '{"prompt": "Ask", "choosen": "Yes", "rejekted": "No"}\n'},
    ),
    Case("advice on prompts for a quick run", "recommend @p.jsonl --model %model --goal quick", {"p.jsonl": ASK}),
    _file("a sweep", "sweep @run.yaml", method="grpo", reward="json"),
    _file("a sweep over a clip", "sweep @run.yaml --vary grpo.clip_high=0.2,0.3", method="dpo", eval_fraction=0.5),
    Case(
        "a model none of whose answers end",
        f"{RUN.replace('%model', '@copy')} --method grpo --reward json {SHORT}",
        {"prompts.jsonl": ASK},
        prepare=_endless,
    ),
    _going_on("going on with other answers", "--reward length:3 --max-steps 2 --temperature 0.7"),
    _going_on("going on for another reward", "--reward length:4 --max-steps 2"),
]
