"""Runs of `likelier` on a model that answers questions, and how well its answers to held-out ones keep a rule.

Everything lies in a folder beside the results, `runs/studies/`: what was written and trained is not done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples import one_sentence
from examples.plain_loop import sequence_logp
from likelier.cli import main as cli
from likelier.data.prompts import Prompt, load_prompts
from likelier.experiments.stages import parse_stages, train_stages
from likelier.models.generation import Decoding, Written, prompt_ids, write_answers
from likelier.models.policy import Policy, load_policy
from likelier.runs.folder import final_folder
from likelier.utils.files import write_whole
from likelier.utils.statistics import mean_of

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = ROOT / "examples" / "questions.jsonl"
EVERY = 4  # of the questions one is held out
AT_ONCE = 6  # questions that are answered together
MEASURED = 3  # answers to each whose log-ratios tell the divergence


@dataclass(frozen=True)
class Task:
    """A model, the reward that a program gives its answers, how long they may be, and where all of it lies."""

    folder: Path
    model: str
    reward: str
    max_new_tokens: int
    answers: int  # to a question, of those that pairs are made of and of those that are judged

    @staticmethod
    def demo(folder: Path) -> Task:
        """The demo model, which shall answer in one sentence of at most twelve words."""
        return _begun(Task(folder, "demo", f"{ROOT / 'examples' / 'one_sentence.py'}:reward", 40, 8))

    @staticmethod
    def tiny(folder: Path) -> Task:
        """A tiny model of random weights, whose answers shall be short: for a look at the study's own code."""
        _save_tiny(folder / "model")
        return _begun(Task(folder, str(folder / "model"), "length:3 characters", 6, 4))

    @property
    def asked(self) -> str:
        """The questions that runs learn from."""
        return str(self.folder / "questions.jsonl")

    def pairs(self, seed: int) -> str:
        """The start model's own answers in pairs, the one that earns more first: written once for all methods."""
        output, pairs = self.folder / f"answers-{seed}.jsonl", self.folder / f"pairs-{seed}.jsonl"
        if not pairs.is_file():
            words = ["sample", "--model", self.model, "--data", self.asked, "--output", output, "--seed", seed]
            words += ["--answers", self.answers, "--max-new-tokens", self.max_new_tokens, "--reward", self.reward]
            words += ["--pairs", "all", "--pairs-output", pairs, "--keep-cut"]
            if code := cli.main([str(word) for word in words]):
                raise RuntimeError(f"likelier sample ended with code {code}")
        return str(pairs)

    def trained(self, name: str, seed: int, stage: Mapping[str, Any]) -> Path:
        """The last folder of a run, as stages have it. One that was cut goes on where it was."""
        output = self.folder / f"{name}-{seed}"
        whole = {"model": self.model, "output": str(output), "seed": seed, "lora_r": 16, "stages": [dict(stage)]}
        train_stages(parse_stages({**whole, "resume": (output / "run.json").is_file()}))
        return final_folder(output)

    def measured(self, model: str | Path, seed: int, *, best: bool = False) -> dict[str, float]:
        """On held-out questions: the share of a model's answers that keep the rule (`success`), or of questions with
        any such answer (`best`: the best of them all by a verifier), and the divergence from the model without its
        adapter in nats an answer by the first `MEASURED` of each, each number with its standard error.
        """
        policy, kept, ratios = load_policy(model), [], []
        prompts = load_prompts(str(self.folder / "held-out.jsonl")).train
        for first in range(0, len(prompts), AT_ONCE):
            some = prompts[first : first + AT_ONCE]
            asked = [prompt_ids(policy, prompt.prompt) for prompt in some]
            decoding = Decoding(self.max_new_tokens, 1.0, (1000 * seed + first) % 2**32)
            rows = [ids for ids in asked for _ in range(self.answers)]
            written = write_answers(policy.model, policy.tokenizer, rows, decoding)
            for number, (prompt, ids) in enumerate(zip(some, asked, strict=True)):
                own = written[number * self.answers : (number + 1) * self.answers]
                kept.append(_kept(prompt, own))
                ratios.append([0.0 if best else _log_ratio(policy, ids, one.ids) for one in own[:MEASURED]])
        success = mean_of([max(row) if best else fmean(row) for row in kept])
        kl = mean_of([fmean(row) for row in ratios])
        value = log(self.answers) - (self.answers - 1) / self.answers if best else kl.value
        return {"success": success.value, "success_error": success.error, "kl": value, "kl_error": kl.error}


def _begun(task: Task) -> Task:
    """With the questions in two files, always the same ones held out."""
    rows = QUESTIONS.read_text(encoding="utf-8").splitlines()
    held = rows[::EVERY]
    for name, some in (("questions", [row for row in rows if row not in held]), ("held-out", held)):
        write_whole(task.folder / f"{name}.jsonl", ("\n".join(some) + "\n").encode())
    return task


def _kept(prompt: Prompt, written: Sequence[Written]) -> list[float]:
    stops = ["eos" if one.is_whole else "length" for one in written]
    return one_sentence.success([one.text for one in written], stops, [prompt.columns["question"]] * len(written))


@torch.no_grad()
def _log_ratio(policy: Policy, prompt: list[int], answer: list[int]) -> float:
    if not hasattr(policy.model, "disable_adapter"):
        return 0.0  # it is the model that all begin with
    own = sequence_logp(policy.model, prompt, answer)
    with policy.model.disable_adapter():
        return float(own - sequence_logp(policy.model, prompt, answer))


_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _save_tiny(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    one = Tokenizer(models.BPE({letter: number for number, letter in enumerate([*letters, "<end>"])}, []))
    one.pre_tokenizer, one.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=one, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = _TEMPLATE
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ends = dict.fromkeys(("eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **ends, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
