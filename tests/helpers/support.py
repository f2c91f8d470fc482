"""Tiny models, a tokenizer and data for the tests: made here, nothing fetched."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from likelier.data.groups import Group
from likelier.data.records import Labelled, Message, Pair, Source
from likelier.models.policy import Policy, disable_dropout

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "mat",
    "hill",
    "fast",
    "slow",
    "red",
    "blue",
    "yes",
    "no",
    "it",
    "was",
    "very",
    "good",
    "bad",
    "right",
    "wrong",
    "and",
    "but",
]


@cache
def _trained_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [" ".join(random.Random(seed).choices(WORDS, k=30)) for seed in range(200)]
    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 384 tokens with a ChatML template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()), eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    if chat:
        tokenizer.chat_template = CHATML
    return tokenizer


def grow_tokenizer(folder: Path, template: str | None = None, **tokens: Any) -> Path:
    """Give a folder's tokenizer tokens that its model has no rows for."""
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens(tokens)
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(
    seed: int = 0, dtype: torch.dtype = torch.float64, kind: Any = LlamaForCausalLM, **changes: object
) -> Any:
    """A random Llama of 2 layers; large enough weights that log-probabilities differ."""
    settings: dict[str, object] = {
        "vocab_size": 384,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    model = kind(LlamaConfig(**(settings | changes))).to(dtype)
    return _exact(model) if dtype == torch.float64 else model


def _exact(model: Any) -> Any:
    """Norms that stay in fp64: transformers' go through fp32, whose rounding depends on how a sum was cut."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return model


def tiny_policy(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: object) -> Policy:
    """A tiny model as a policy."""
    model = tiny_model(seed, dtype, **changes)
    disable_dropout(model)
    return Policy(model, tiny_tokenizer(), "tiny", "a tiny random Llama")


def lora_policy(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: object) -> Policy:
    """A tiny model with a new LoRA adapter."""
    return _with_lora(tiny_policy(seed, dtype), seed, dtype, **changes)


def _with_lora(policy: Policy, seed: int, dtype: torch.dtype, **changes: object) -> Policy:
    from likelier.models.options import LoraOptions
    from likelier.models.policy import add_lora

    policy.model = add_lora(policy.model, LoraOptions(lora_r=4, **changes), seed).to(dtype)  # type: ignore[arg-type]
    return policy


def reward_policy(seed: int = 0, dtype: torch.dtype = torch.float64) -> Policy:
    """A tiny classifier with one output, to be made a reward model."""
    return tiny_policy(seed, dtype, kind=LlamaForSequenceClassification, num_labels=1)


def reward_lora_policy(seed: int = 0, dtype: torch.dtype = torch.float64) -> Policy:
    """The same with a new LoRA adapter, which trains the head as a whole."""
    return _with_lora(reward_policy(seed, dtype), seed, dtype)


def sentence(rng: random.Random, low: int = 2, high: int = 9) -> str:
    """A few random words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def chat_pair(rng: random.Random, number: int) -> Pair:
    """A random conversation pair."""
    prompt = (Message("user", sentence(rng)),)
    chosen, rejected = ((Message("assistant", f"{word} {sentence(rng)}"),) for word in ("yes", "no"))
    return Pair(prompt, chosen, rejected, Source("tiny.jsonl", number))


def chat_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Random conversation pairs of uneven lengths."""
    rng = random.Random(seed)
    return [chat_pair(rng, number) for number in range(1, count + 1)]


def labelled_rows(count: int, seed: int = 0) -> list[Labelled]:
    """Random labelled answers, labels mixed."""
    rng = random.Random(seed)
    return [Labelled(pair.prompt, pair.chosen, rng.random() < 0.5, pair.source) for pair in chat_pairs(count, seed)]


def naive_logp(model: torch.nn.Module, group: Group, number: int) -> float:
    """The log-probability of one answer, computed alone and in the most direct way."""
    ids = torch.tensor([[*group.prompt.tolist(), *group.answers[number].tolist()]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    logps = torch.log_softmax(logits.double(), -1)
    start = len(group.prompt)
    return float(sum(logps[place - 1, ids[0, place]] for place in range(start, ids.shape[1])))


def shared_tokens(groups: Sequence[Group]) -> int:
    """What the shared-prefix scorer holds for these groups at once: each distinct prompt and answer once."""
    prompts = {group.prompt.tobytes(): len(group.prompt) for group in groups}
    answers = {
        (group.prompt.tobytes(), key): len(answer) - 1
        for group in groups
        for key, answer in zip(group.answer_keys, group.answers, strict=True)
    }
    return sum(prompts.values()) + sum(answers.values())


def clustered(count: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """(rows, right rows) of so many prompts: of very unequal sizes, mostly right or mostly wrong as a whole."""
    rng = random.Random(seed)
    sizes = [rng.choice((1, 2, 5, 20)) for _ in range(count)]
    return sizes, [round(size * rng.choice((0.1, 0.9, 1.0))) for size in sizes]


def clustered_error(sizes: Sequence[int], sums: Sequence[float]) -> float:
    """The standard error of a mean over all rows where whole prompts are drawn: a ratio of two sums, to first order."""
    mean = sum(sums) / sum(sizes)
    return sum((own - mean * size) ** 2 for own, size in zip(sums, sizes, strict=True)) ** 0.5 / sum(sizes)


# What a clock says differs from run to run.
MEASURED = re.compile(r"(eval_)?seconds(/.*)?|memory_gib|.*tokens_per_second")


def numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Logged metrics without what was measured on the machine."""
    return {name: value for name, value in metrics.items() if not MEASURED.fullmatch(name)}


def logged(trainer: Any) -> list[dict[str, Any]]:
    """Every line of a run's metrics, without what was measured on the machine."""
    return [numbers(line) for line in trainer.folder.read_metrics()]
