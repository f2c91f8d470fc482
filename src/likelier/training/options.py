"""The options of a run, as dataclasses: one name each for the library, the YAML file and the command line.

A field's `help` metadata is its `--help`; None means "not given", so that an option without effect can be told from one
that was left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from likelier.data.options import option
from likelier.data.weighting import Signals
from likelier.training.trainer_block import DDP_ARGUMENTS, check_trainer_block
from likelier.utils.errors import ConfigError, nearest

if TYPE_CHECKING:
    from likelier.utils.distributed import Ranks

Scheduler = Literal["constant", "cosine", "linear"]
_FROM_1 = (
    *("batch_size", "max_steps", "eval_items", "eval_new_tokens", "save_steps", "save_total_limit", "logging_steps"),
    *("token_budget", "max_length", "reference_every"),
)
_MOVES_EVERY = {"soft": 1, "hard": 512, "bema": 400}
OF_REFERENCE = ("reference_scores", "reference_store", "reference_moves", "reference_mix", "reference_every")
_LEAST = {**dict.fromkeys(_FROM_1, 1), "eval_steps": 0, "eval_prompts": 0}


@dataclass(frozen=True)
class TrainingOptions:
    """How a run trains. `docs/defaults.md` says what each default rests on."""

    batch_size: int = option(
        32,
        "pairs (KTO: rows; where the policy writes: prompts, 8 of them) of one optimizer step, over all micro-batches",
    )
    learning_rate: float | None = option(
        None, "peak learning rate (default: the method's own, printed with its source)"
    )
    scheduler: Scheduler = option("cosine", "learning rate schedule after the warm-up")
    warmup: float | None = option(None, "share of the steps to warm up (default: 0.1, with --scheduler constant 0)")
    max_steps: int | None = option(None, "stop after this many optimizer steps (default: the epochs decide)")
    epochs: float | None = option(None, "passes over the data (default: 1)")
    order: Literal["shuffled", "file"] = option(
        "shuffled", "order of the rows: shuffled by seed and epoch, or as in the file"
    )
    group_by: Literal["prompt"] | None = option(
        None, "prompt: steps of whole prompts (all pairs of a prompt in one step)"
    )
    max_length: int | None = option(None, "tokens of prompt + answer (default: the model's context, at most 2048)")
    truncation: Literal["drop", "cut-prompt-left", "cut-answer-right", "error"] = option(
        "drop", "what to do with rows over --max-length; an answer cut on the right gets no end-of-sequence token"
    )
    token_budget: int | None = option(None, "tokens of one micro-batch (default: from the device's memory)")
    scorer: Literal["auto", "shared-prefix", "plain"] = option(
        "auto", "shared-prefix: every prompt once, no padding; plain: padded rows; auto: the first where it is exact"
    )
    activation_checkpointing: bool = option(
        False, "keep fewer activations and compute them again in backward: less memory, about a third more time"
    )
    verify: bool = option(
        False, "try the scorer again, also where this architecture passed with these versions and this precision before"
    )
    compile: bool = option(False, "compile the model's layers (torch.compile); the first steps are then slow")
    shard: bool = option(
        False,
        "split weights, gradients and optimizer state between the processes of torchrun or accelerate launch (FSDP2); "
        "without it each process holds all of them (DDP)",
    )
    rank_timeout: float | None = option(
        None, "seconds without a sign of life of one process after which the others end (default: 120)"
    )
    use_votes: Literal["majority", "soft", "weight"] = option(
        "majority",
        "what annotators' votes decide; majority: which answer is chosen; soft: also how certain the label is (their "
        "share); weight: also how much the pair weighs (their margin)",
    )
    use_weights: Literal["column", "scores", "prompt"] | None = option(
        None,
        "weigh rows in the loss: by their weight column, by the difference of the answers' scores, or so that every "
        "prompt counts alike (default: not)",
    )
    use_margins: Literal["column", "scores"] | None = option(
        None, "margin of each pair: its margin column, or the difference of the answers' scores (default: not)"
    )
    min_score_gap: float | None = option(None, "leave out pairs whose scores are less than this apart")
    reference_scores: Literal["stored", "live"] = option(
        "stored", "stored: score the reference once, keep it on disk; live: ask it at every step"
    )
    reference_moves: Literal["soft", "hard", "bema"] | None = option(
        None,
        "let the reference follow the policy (TR-DPO): soft: take over a share of its weights; hard: become it; bema: "
        "become a bias-corrected average of its weights (default: it stays where training began)",
    )
    reference_mix: float | None = option(
        None, "with --reference-moves soft: the share of the policy in the reference's update (default: 0.6)"
    )
    reference_every: int | None = option(
        None, "steps between two moves of the reference (default: soft 1, hard 512, bema 400)"
    )
    reference_store: str | None = option(None, "folder of stored reference scores (default: in the user's cache)")
    eval_steps: int | None = option(
        None,
        "evaluate every so many steps; 0: only at the start and the end (default: as often as costs about 5 % of the "
        "training time at most)",
    )
    eval_items: int | None = option(None, "held-out items that are scored at intervals (default: 256)")
    eval_prompts: int | None = option(
        None, "held-out prompts that the policy answers in an evaluation; 0: none (default: 16)"
    )
    eval_new_tokens: int | None = option(
        None, "most tokens of an answer that the policy writes in an evaluation (default: 64)"
    )
    eval_reward: str | None = option(
        None,
        "what gives the policy's answers a reward: a sequence classifier (hub id or folder), or file.py:function, "
        "which is called with the prompts and the answers",
    )
    save_steps: int | None = option(None, "write a checkpoint every so many steps (default: none)")
    save_total_limit: int | None = option(None, "keep only the newest checkpoints")
    logging_steps: int = option(1, "write metrics every so many steps")
    report_to: str = option("none", "where else to report, by commas: tensorboard, wandb, trackio, mlflow; none")
    seed: int = option(42, "seed of the order, the held-out split and new LoRA weights")
    trainer: dict[str, Any] = option(None, "any other transformers.TrainingArguments, by name (YAML only)", flag=False)

    def __post_init__(self) -> None:
        for name, choices in _choices(type(self)).items():
            value = getattr(self, name)
            if value not in choices and (value is not None or getattr(type(self), name) is not None):
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; known: {', '.join(choices)}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} is out of range; it must be at least {least}")
        for name in ("eval_new_tokens", "eval_reward"):
            if self.eval_prompts == 0 and getattr(self, name) is not None:
                raise ConfigError(f"{name} has no effect with eval_prompts=0, which lets the policy write nothing")
        if self.eval_steps == 0 and self.eval_items is not None:
            raise ConfigError("eval_items has no effect with eval_steps=0; at the start and the end all items count")
        for name in ("learning_rate", "epochs", "rank_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name}={value} is out of range; it must be above 0, and finite")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed} is out of range; it must lie between 0 and 2**32 - 1")
        if self.min_score_gap is not None and not 0 <= self.min_score_gap < float("inf"):
            raise ConfigError(f"min_score_gap={self.min_score_gap} is out of range; it must be at least 0")
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup={self.warmup} is out of range; it is a share of the steps, from 0 to below 1")
        if self.max_steps is not None and self.epochs is not None:
            raise ConfigError("max_steps and epochs were both given, and max_steps would win; keep one of them")
        if self.save_total_limit is not None and self.save_steps is None:
            raise ConfigError("save_total_limit has no effect without save_steps; give save_steps as well")
        if self.reference_store is not None and self.reference_scores == "live":
            raise ConfigError("reference_store has no effect with reference_scores=live; drop one of them")
        self._check_moves()
        object.__setattr__(self, "trainer", check_trainer_block(self.trainer or {}))

    def _check_moves(self) -> None:
        for name in ("reference_mix", "reference_every"):
            if getattr(self, name) is not None and self.reference_moves is None:
                raise ConfigError(f"{name} has no effect on a reference that stays; give reference_moves, or drop it")
        if self.reference_mix is not None and self.reference_moves != "soft":
            raise ConfigError(f"reference_mix has no effect with reference_moves={self.reference_moves}; drop it")
        if self.reference_mix is not None and not 0 < self.reference_mix <= 1:
            raise ConfigError(
                f"reference_mix={self.reference_mix} is out of range; it must be above 0 and at most 1 (with 0 the "
                "reference stays: drop reference_moves for that)"
            )
        if self.reference_moves is not None and self.reference_scores == "live":
            raise ConfigError(
                "reference_scores=live has no effect with reference_moves: a reference that moves is always asked at "
                "every step, and held-out rows keep the stored scores of where it began; drop it"
            )

    @property
    def moves_every(self) -> int:
        """Steps between two moves of a reference that moves."""
        return self.reference_every or _MOVES_EVERY[self.reference_moves or "soft"]

    @property
    def moved_share(self) -> float:
        """The share of the policy in what a reference that moves becomes."""
        return 1.0 if self.reference_moves != "soft" else 0.6 if self.reference_mix is None else self.reference_mix

    @property
    def asks_reference(self) -> bool:
        """Whether the reference's scores of training rows are computed at every step, not stored."""
        return self.reference_scores == "live" or self.reference_moves is not None

    @property
    def signals(self) -> Signals:
        """What of the data's votes, weights, margins and scores is used."""
        return Signals(self.use_votes, self.use_weights, self.use_margins, self.min_score_gap)

    @property
    def warmup_share(self) -> float:
        """The warm-up that runs."""
        return self.warmup if self.warmup is not None else (0.0 if self.scheduler == "constant" else 0.1)

    @property
    def interval_items(self) -> int:
        """Held-out items that are scored at intervals."""
        return 256 if self.eval_items is None else self.eval_items

    @property
    def answered_prompts(self) -> int:
        """Held-out prompts that the policy answers."""
        return 16 if self.eval_prompts is None else self.eval_prompts

    @property
    def answer_tokens(self) -> int:
        """Tokens of a written answer at most."""
        return 64 if self.eval_new_tokens is None else self.eval_new_tokens


def _choices(options: type) -> dict[str, tuple[str, ...]]:
    """The options that are one of a few words, or not given."""
    found = {}
    for name, hint in get_type_hints(options).items():
        for kind in (hint, *get_args(hint)):
            if get_origin(kind) is Literal:
                found[name] = get_args(kind)
    return found


def refuse_evaluation_options(options: TrainingOptions) -> None:
    """Without evaluation data every option about an evaluation is inert, hence an error."""
    for name in ("eval_steps", "eval_items", "eval_prompts", "eval_new_tokens", "eval_reward"):
        if getattr(options, name) is not None:
            raise ConfigError(f"{name} has no effect without evaluation data; give eval_data or eval_fraction")
    if options.reference_moves is not None and options.reference_store is not None:
        raise ConfigError(
            "reference_store has no effect without evaluation data where the reference moves: of training rows nothing "
            "is stored; drop it, or give eval_data or eval_fraction"
        )


def for_model_of(objective: Any, options: TrainingOptions, *, held_out: bool) -> TrainingOptions:
    """The options of a run of this method (an `Objective`): a model that gives values writes no answers to held-out
    prompts. Raises `ConfigError` where answers are asked of it.
    """
    if not objective.reads_values:
        return options
    for name in ("eval_prompts", "eval_new_tokens", "eval_reward"):
        if getattr(options, name):
            raise ConfigError(f"{name} has no effect on {objective.method}, whose model writes no answers; drop it")
    return replace(options, eval_prompts=0) if held_out else options


def refuse_process_options(options: TrainingOptions, ranks: Ranks) -> None:
    """In one process every option about several is inert, hence an error; so are those that do not go together."""
    if not ranks.several:
        several = {"shard": options.shard, "rank_timeout": options.rank_timeout is not None}
        several |= {f"trainer.{name}": name in options.trainer for name in DDP_ARGUMENTS}
        for name in (name for name, given in several.items() if given):
            raise ConfigError(
                f"{name} has no effect in one process; start several with torchrun or accelerate launch, or drop it"
            )
    if options.shard and options.reference_scores == "live":
        raise ConfigError("reference_scores=live would keep a second model beside a sharded policy; take stored scores")
    if options.shard and options.reference_moves is not None:
        raise ConfigError("reference_moves would keep second weights beside a sharded policy; drop it, or shard")
    if options.shard and options.compile:
        raise ConfigError("shard and compile were both given, and are not proved together; drop one of them")


def refuse_inert_options(objective: Any, options: TrainingOptions, *, named_reference: bool) -> None:
    """Options that the method (an `Objective`) cannot use are an error. `named_reference`: the run names one."""
    _refuse_signals(objective, options)
    given = {name: getattr(options, name) != getattr(TrainingOptions, name) for name in OF_REFERENCE}
    for name, is_given in {"reference": named_reference, **given}.items():
        if is_given and not objective.needs_reference:
            raise ConfigError(f"{objective.method} uses no reference; drop {name}")
    if named_reference and options.reference_moves is not None:
        raise ConfigError(
            "reference_moves makes the reference a mixture of the policy's own weights, which begins where the policy "
            "begins; drop reference, or reference_moves"
        )
    if options.reference_moves is not None and objective.state:
        raise ConfigError(
            f"{objective.method} carries what it saw of training rewards into evaluations, where rewards are those "
            "against the start and not against a reference that moved; drop reference_moves"
        )


def _refuse_signals(objective: Any, options: TrainingOptions) -> None:
    """Votes, weights and margins that the method (an `Objective`) cannot use are an error that names those that can."""
    from likelier.objectives import METHODS  # with torch, which a command's help does without

    method = objective.method
    if (options.min_score_gap is not None or options.use_weights == "scores") and objective.data == "scores":
        given = "min_score_gap" if options.min_score_gap is not None else "use_weights=scores"
        raise ConfigError(f"{method} learns from the scores themselves; drop {given}")
    if options.use_margins is not None and not objective.takes_margins:
        takers = [name for name, one in METHODS.items() if one.takes_margins]
        raise ConfigError(f"{method} has no place for a margin; drop use_margins, or take {_named(takers, 'or')}")
    if options.use_votes == "soft":
        if not objective.takes_soft_labels:
            takers = [name for name, one in METHODS.items() if one.takes_soft_labels]
            raise ConfigError(
                f"{method} has no place for soft labels; use_votes=weight works with every method, soft with "
                f"{_named(takers, 'and')}"
            )
        for name, value in objective.hyperparameters().items():
            if value and name.rpartition(".")[2] in ("label_smoothing", "nll_weight"):
                raise ConfigError(f"use_votes=soft and {name}={value} contradict each other; drop one of them")


def _named(methods: Sequence[str], link: str) -> str:
    *first, last = methods
    return f"{', '.join(first)} {link} {last}"


def with_changes(options: TrainingOptions, changes: dict[str, Any]) -> TrainingOptions:
    """The options with some changed by name; an unknown name is an error."""
    known = [item.name for item in fields(TrainingOptions)]
    for name in changes:
        if name not in known:
            raise ConfigError(f"unknown option {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return replace(options, **changes)
