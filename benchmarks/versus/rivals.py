"""How each rival loads a model and builds its trainer. Runs in a worker.

Loading is apart from building, so that the first is not in the time that is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from versus.cases import BETA, LORA_RANK, MAX_LENGTH, SEED, Case
from versus.flops import PaddedBatch

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of one rival: `model` and `folder` are places, `store` the reference store (likelier)."""

    case: Case
    rival: str
    device: str
    model: str
    folder: str
    store: str


@dataclass
class Loaded:
    """What was loaded before the clock starts: likelier's policy, or TRL's model, reference and tokenizer."""

    model: Any
    reference: Any = None
    tokenizer: Any = None
    settings: dict[str, Any] = field(default_factory=dict)


def load(job: Job) -> Loaded:
    """Load the model(s) of a rival, and read every weight once: files are mapped, and come in when they are read."""
    loaded = _load_likelier(job) if job.rival.startswith("likelier") else _load_trl(job)
    for model in (getattr(loaded.model, "model", loaded.model), loaded.reference):
        for weight in () if model is None else model.parameters():
            weight.detach().sum()
    return loaded


def build(job: Job, loaded: Loaded, rows: Sequence[Row], callback: Any, batches: list[PaddedBatch]) -> Any:
    """The trainer of a rival; TRL's notes each batch that its collator makes in `batches`."""
    if job.rival.startswith("likelier"):
        return _likelier_trainer(job, loaded, rows, callback)
    return _trl_trainer(job, loaded, rows, callback, batches)


# --- likelier ------------------------------------------------------------------------------------------------------


def _load_likelier(job: Job) -> Loaded:
    from likelier import LoraOptions, load_policy

    lora = LoraOptions(lora_r=LORA_RANK) if job.case.lora else None
    policy = load_policy(job.model, lora=lora, seed=SEED)
    return Loaded(policy, settings={"dtype": "auto", "lora_r": LORA_RANK if lora else None})


def _likelier_trainer(job: Job, loaded: Loaded, rows: Sequence[Row], callback: Any) -> Any:
    from likelier import DPO, PreferenceTrainer, load_preferences

    options = {
        "batch_size": job.case.batch,
        "learning_rate": job.case.learning_rate,
        "scheduler": "constant",
        "order": "file",
        "group_by": "prompt" if job.case.data == "qa" else None,
        "max_length": MAX_LENGTH,
        "seed": SEED,
    }
    loaded.settings |= {"beta": BETA, **options}
    return PreferenceTrainer(
        loaded.model,
        DPO(beta=BETA),
        load_preferences(rows).train,
        output_dir=f"{job.folder}/run",
        reference_store=job.store,
        callbacks=[callback],
        **options,
    )


# --- TRL -----------------------------------------------------------------------------------------------------------


def trl_settings(case: Case, rival: str, device: str) -> dict[str, Any]:
    """What of DPOConfig differs from its defaults."""
    micro = rival == "trl-micro"
    settings: dict[str, Any] = {
        "beta": BETA,
        "per_device_train_batch_size": 1 if micro else case.batch,
        "gradient_accumulation_steps": case.batch if micro else 1,
        "num_train_epochs": 1,
        "learning_rate": case.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "max_length": MAX_LENGTH,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "seed": SEED,
    }
    if device == "cpu":
        settings |= {"use_cpu": True, "bf16": False}
    if rival != "trl-default":
        settings |= {"precompute_ref_log_probs": True, "gradient_checkpointing": False}
        if device == "cuda" and find_spec("liger_kernel") is not None:
            settings |= {"use_liger_kernel": True}  # its fused head and the model's kernels
    if micro:
        settings |= {"precompute_ref_batch_size": 1}
    if rival == "trl-grouped":  # the column of lengths would be removed before the sampler asks for it
        settings |= {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    return settings


def _load_trl(job: Job) -> Loaded:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # TRL loads weights in float32 by itself; who tunes LoRA on CUDA takes a bfloat16 base, as likelier does.
    half = job.case.lora and job.device == "cuda" and job.rival != "trl-default"
    dtype = torch.bfloat16 if half else torch.float32

    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype)

    needs_reference = job.rival == "trl-default" and not job.case.lora
    return Loaded(
        model(),
        model() if needs_reference else None,  # DPOTrainer would load it itself, within the time measured
        AutoTokenizer.from_pretrained(job.model),
        {"weights": str(dtype).removeprefix("torch.")},
    )


def _trl_trainer(job: Job, loaded: Loaded, rows: Sequence[Row], callback: Any, batches: list[PaddedBatch]) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    settings = trl_settings(job.case, job.rival, job.device)
    loaded.settings |= settings
    data = Dataset.from_list(list(rows))
    if job.rival == "trl-grouped":
        data = data.add_column("length", _lengths(rows, loaded.tokenizer))
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    return DPOTrainer(
        model=loaded.model,
        ref_model=loaded.reference,
        args=DPOConfig(output_dir=f"{job.folder}/run", **settings, **quiet),
        data_collator=noting_collator(loaded.tokenizer, batches),
        train_dataset=data,
        processing_class=loaded.tokenizer,
        callbacks=[callback],
        peft_config=_peft_config(loaded) if job.case.lora else None,
    )


def _peft_config(loaded: Loaded) -> Any:
    from peft import LoraConfig

    settings: dict[str, Any] = {
        "r": LORA_RANK,
        "lora_alpha": 2 * LORA_RANK,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
    }
    loaded.settings |= settings
    return LoraConfig(task_type="CAUSAL_LM", **settings)


def _lengths(rows: Sequence[Row], tokenizer: Any) -> list[int]:
    """Tokens of each row's longer side, as its batch is padded by it."""

    def count(row: Row, side: str) -> int:
        if isinstance(row["prompt"], str):
            return len(tokenizer(row["prompt"] + row[side])["input_ids"])
        return len(
            tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=True, return_dict=True)["input_ids"]
        )

    return [max(count(row, "chosen"), count(row, "rejected")) for row in rows]


def noting_collator(tokenizer: Any, batches: list[PaddedBatch]) -> Callable[[list[Row]], Any]:
    """TRL's own collator, which also notes the sizes of what it makes."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class Noting(DataCollatorForPreference):
        """Notes each batch."""

        def torch_call(self, examples: list[Row]) -> Any:
            made = super().torch_call(examples)
            rows, width = made["input_ids"].shape
            real, answers = int(made["attention_mask"].sum()), int(made["completion_mask"].sum())
            batches.append(PaddedBatch(rows, width, real, answers))
            return made

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Noting(pad_token_id=tokenizer.pad_token_id, max_length=MAX_LENGTH)
