"""What is alive during a training step, counted on tensors that have shapes and no memory.

The scorer, the head, the adapter and checkpointing run as they are, forward and backward, on torch's fake tensors. A
ledger adds up every storage when it is made and takes it off when it dies. So nothing is assumed about an architecture,
and no weights are needed: two depths of a model, of a few layers each, tell what a layer adds.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from likelier.advice.known import known
from likelier.data.groups import Group
from likelier.data.lengths import Row, tokens_of
from likelier.data.records import Source
from likelier.models.architectures import auto_class, freeze_other_parts
from likelier.models.layers import backbone_of, causal_model, checkpoint_activations
from likelier.models.options import Dtype, LoraOptions
from likelier.models.policy import add_lora, disable_dropout
from likelier.models.sharing import value_copy
from likelier.scoring import attention, collate, shared_prefix
from likelier.scoring.attention import install_attention
from likelier.scoring.layout import Layout, Segments, shared_prefix_layout
from likelier.scoring.logprobs import default_chunk
from likelier.scoring.values import layout_values
from likelier.utils.errors import ConfigError, whole_reason

Device = Literal["cpu", "cuda"]
Kind = Literal["activations", "head"]
Phase = Literal["forward", "layers", "end", "reading", "writing"]
# Beyond so many rows, or prompts and answers, memory goes with the rows: traced twice, drawn on as a straight line.
_MOST_ROWS = 24
_MOST_SEGMENTS = 72
_LONGEST_PATTERN = 8  # layers after which an architecture repeats itself; beyond, every layer is traced


@dataclass(frozen=True)
class Training:
    """What a step holds depends on this, and on its rows. `values`: the model gives a number a token, and no words."""

    lora: LoraOptions
    weights: torch.dtype
    autocast: bool = False
    checkpointing: bool = False
    cuda: bool = False
    values: bool = False

    @property
    def adapter(self) -> bool:
        """Whether an adapter is trained, and not all weights."""
        return self.lora.lora_r is not None


def training_of(lora: LoraOptions, dtype: Dtype, device: Device, checkpointing: bool) -> Training:
    """Precision and device of a run, as `load_policy` decides them."""
    if lora.load_in_4bit and device == "cpu":
        raise ConfigError("load_in_4bit needs CUDA; plan for it with --device cuda")
    if dtype == "pure-bfloat16" and lora.lora_r is not None:
        raise ConfigError("dtype=pure-bfloat16 is for training all weights; with lora_r take bfloat16")
    autocast = dtype == "bfloat16" or (dtype == "auto" and device == "cuda")
    small = dtype == "pure-bfloat16" or (autocast and lora.lora_r is not None)
    weights = torch.bfloat16 if small else torch.float32
    return Training(lora, weights, autocast, checkpointing, cuda=device == "cuda")


@dataclass(frozen=True)
class Alive:
    """Bytes at a moment of a step, besides weights, gradients and optimizer state."""

    activations: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.activations + self.head

    def along(self, other: Alive, steps: float) -> Alive:
        """The straight line from here through `other`, `steps` times that far."""
        ends = ((self.activations, other.activations), (self.head, other.head))
        return Alive(*(max(0, round(start + steps * (end - start))) for start, end in ends))


@dataclass(frozen=True)
class Trace:
    """The fullest moments of a micro-batch: until the head's backward pass is done, while the layers go backward (the
    last one first, when all is still kept), and at the end, when the embedding's gradient is made.
    """

    forward: Alive
    layers: Alive = Alive()
    end: Alive = Alive()

    @property
    def moments(self) -> tuple[Alive, Alive, Alive]:
        """All of them, in this order."""
        return self.forward, self.layers, self.end

    @property
    def fullest(self) -> Alive:
        """The fullest of them."""
        return max(self.moments, key=lambda alive: alive.total)

    def along(self, other: Trace, steps: float) -> Trace:
        """Each moment drawn on as a straight line: what a layer or a row adds, it adds again."""
        return Trace(
            self.forward.along(other.forward, steps),
            self.layers.along(other.layers, steps),
            self.end.along(other.end, steps),
        )


class StepTracer:
    """Traces steps of one model, trained in one way.

    `formula_because` says why the model cannot be traced, where it cannot; its numbers then come from a formula for
    ordinary transformer layers.
    """

    def __init__(self, config: Any, training: Training) -> None:
        self.config, self.training = config, training
        self.formula_because: str | None = None
        self._known: dict[tuple[tuple[Row, ...], bool], Trace] = {}

    def trace(self, rows: Sequence[Row], *, gradients: bool = True) -> Trace:
        """What a micro-batch of these rows holds, trained on or only scored."""
        key = (tuple(rows), gradients)
        if key not in self._known:
            self._known[key] = self._many(key[0], gradients)
        return self._known[key]

    def _many(self, rows: tuple[Row, ...], gradients: bool) -> Trace:
        most = min(_MOST_ROWS, max(2, _MOST_SEGMENTS // (1 + max(len(row.answers) for row in rows))))
        if len(rows) <= most:
            return self._at_full_depth(rows, gradients)
        few, more = rows[: most // 2], rows[:most]
        steps = (tokens_of(rows) - tokens_of(few)) / (tokens_of(more) - tokens_of(few))
        return self.trace(few, gradients=gradients).along(self.trace(more, gradients=gradients), steps)

    def _at_full_depth(self, rows: tuple[Row, ...], gradients: bool) -> Trace:
        if self.formula_because is None:
            try:
                return self._traced(rows, gradients)
            except Exception as error:  # what a model's own code does with a fake tensor is open
                self.formula_because = whole_reason(error)
        return _by_formula(self.config.get_text_config(), rows, self.training, gradients)

    def _traced(self, rows: tuple[Row, ...], gradients: bool) -> Trace:
        layers = self.config.get_text_config().num_hidden_layers
        few = 2 * layer_pattern(self.config)
        if not gradients:  # nothing is kept from layer to layer
            return trace_step(self.config, rows, self.training, layers=min(few, layers), gradients=False)
        if layers <= 2 * few:
            return trace_step(self.config, rows, self.training, layers=layers)
        shallow, deep = (trace_step(self.config, rows, self.training, layers=depth) for depth in (few, 2 * few))
        return shallow.along(deep, (layers - few) / few)


def layer_pattern(config: Any) -> int:
    """After how many layers an architecture repeats itself (sliding windows and full attention in turn)."""
    text = config.get_text_config()
    kinds = list(getattr(text, "layer_types", None) or [])
    for period in range(1, _LONGEST_PATTERN + 1):
        if all(kind == kinds[place % period] for place, kind in enumerate(kinds)):
            return period
    return text.num_hidden_layers


def build(config: Any, training: Training, layers: int | None = None) -> Any:
    """The model as it would be trained, on whatever device is the default; optionally with fewer layers."""
    config, lora = deepcopy(config), training.lora
    if layers is not None:
        text = config.get_text_config()
        if getattr(text, "layer_types", None):
            text.layer_types = list(text.layer_types)[:layers]
        text.num_hidden_layers = layers
    if training.values:
        config.architectures = None  # a classifier's names it; here it is made of a language model
    model = auto_class(config, str(config.name_or_path)).from_config(
        config, dtype=training.weights, trust_remote_code=False
    )
    disable_dropout(model)
    freeze_other_parts(model)
    if lora.load_in_4bit:  # peft's preparation leaves what is not quantized in float32
        quantized = set(quantized_layers(model))
        for module in model.modules():
            if module not in quantized:
                module._apply(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, recurse=False)
    if lora.lora_r is not None:
        with torch.random.fork_rng(devices=[]):
            model = add_lora(model, replace(lora, load_in_4bit=False), seed=0)
    return value_copy(model, lambda weight: True) if training.values else model


def quantized_layers(model: Any) -> list[nn.Module]:
    """The layers that bitsandbytes holds in 4 bits: every linear one but the head."""
    head = causal_model(model).get_output_embeddings()
    return [module for module in causal_model(model).modules() if isinstance(module, nn.Linear) and module is not head]


def trace_step(config: Any, rows: Sequence[Row], training: Training, *, layers: int, gradients: bool = True) -> Trace:
    """Run one micro-batch through a model of so many layers, on fake tensors.

    The weights' gradients are there already, as for all micro-batches of a step but the first.
    """
    key = {"rows": repr(rows), "training": repr(training), "layers": layers, "gradients": gradients}
    found = known("trace", config, key, lambda: _fullest(config, rows, training, layers, gradients))
    return Trace(**{phase: Alive(**bytes_of) for phase, bytes_of in found.items()})


def _fullest(
    config: Any, rows: Sequence[Row], training: Training, layers: int, gradients: bool
) -> dict[Phase, dict[Kind, int]]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    layout = shared_prefix_layout(collate([made_up_group(row, number) for number, row in enumerate(rows)]))
    with torch.device("meta"):
        model = build(config, training, layers)
    with FakeTensorMode() as fake, as_if_real(training):
        pretend(model)
        install_attention(causal_model(model))
        if training.checkpointing:
            checkpoint_activations(model)
        model.train(gradients)
        ledger = Ledger(standing(model, gradients))
        mark_phases(causal_model(model), ledger)
        row = _pretended(layout, fake)
        with ledger, torch.set_grad_enabled(gradients):
            with torch.autocast("cpu", torch.bfloat16, enabled=training.autocast, cache_enabled=False):
                found = (layout_values if training.values else shared_prefix.layout_logprobs)(model, row)
            if gradients:
                found.sum().backward()
    return ledger.fullest


@contextmanager
def as_if_real(training: Training) -> Iterator[None]:
    """Take the ways that real tensors would: fake weights are a type of their own, and say that they are on a CPU."""
    kernel: Any = attention.has_varlen_kernel
    plain: Any = shared_prefix.is_plain_linear
    shared_prefix.is_plain_linear = lambda head: type(head) is nn.Linear
    if training.cuda and (training.autocast or training.weights == torch.bfloat16):
        attention.has_varlen_kernel = lambda query: query.shape[-1] <= 256
    try:
        yield
    finally:
        attention.has_varlen_kernel, shared_prefix.is_plain_linear = kernel, plain


def made_up_group(row: Row, number: int) -> Group:
    """A group of these lengths; no two of different numbers have one prompt, no two answers begin alike."""

    def ids(start: int, length: int) -> np.ndarray:
        return np.arange(start, start + length, dtype=np.int32)

    answers = tuple(ids(place, length) for place, length in enumerate(row.answers))
    return Group(ids(number, row.prompt), answers, Source("plan", number))


def pretend(model: nn.Module) -> None:
    """Replace meta weights and buffers by fake ones on a CPU; what was shared stays shared."""
    known: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in known:
                    known[id(weight)] = nn.Parameter(_like(weight), requires_grad=weight.requires_grad)
                module._parameters[name] = known[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _like(buffer)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _pretended(layout: Layout, fake: Any) -> Layout:
    tensors = {name: value for name, value in vars(layout).items() if isinstance(value, Tensor)}
    pretended = {name: fake.from_tensor(value) for name, value in tensors.items()}
    return replace(layout, segments=Segments(layout.segments.segments, torch.device("cpu")), **pretended)


def standing(model: nn.Module, gradients: bool) -> list[Tensor]:
    """Weights, buffers and gradients: what the plan counts by itself."""
    if gradients:
        for weight in model.parameters():
            if weight.requires_grad:
                weight.grad = torch.empty_like(weight)
    made = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return [*model.parameters(), *model.buffers(), *made]


def mark_phases(causal: Any, ledger: Ledger) -> None:
    """Tell the ledger when the hidden states are there, when their gradient is, and when the embeddings' is.

    What is made between the first two is counted as the head's.
    """

    def after_layers(module: nn.Module, args: Any, output: Any) -> None:
        ledger.kind = "head"
        if output.last_hidden_state.requires_grad:
            output.last_hidden_state.register_hook(to_layers)

    def to_layers(gradient: Tensor) -> None:
        ledger.kind, ledger.phase = "activations", "layers"

    def after_embedding(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(to_end)

    def to_end(gradient: Tensor) -> None:
        ledger.phase = "end"

    backbone_of(causal).register_forward_hook(after_layers)
    causal.get_input_embeddings().register_forward_hook(after_embedding)


class Ledger(TorchDispatchMode):
    """Adds up the bytes of storages that are alive, and remembers the fullest moment."""

    def __init__(self, standing: Iterable[Tensor]) -> None:
        super().__init__()
        self.kind: Kind = "activations"
        self.alive: dict[Kind, int] = {"activations": 0, "head": 0}
        self.phase: Phase = "forward"
        self.fullest: dict[Phase, dict[Kind, int]] = {"forward": dict(self.alive)}
        self._standing = list(standing)
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in self._standing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, kind, size = storage._cdata, self.kind, storage.nbytes()
        if key in self._known:  # a view, or the result of an operation in place
            return

        def forget(reference: Any) -> None:
            self.alive[kind] -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, forget)
        self.alive[kind] += size
        before = self.fullest.get(self.phase)
        if before is None or sum(self.alive.values()) > sum(before.values()):
            self.fullest[self.phase] = dict(self.alive)


def _by_formula(config: Any, rows: Sequence[Row], training: Training, gradients: bool) -> Trace:
    """For ordinary transformer layers, in padded rows: what a Llama layer keeps is 12 hidden and 4 inner sizes a token.

    (Two norms with their results, queries, keys, values, the attention's result, twice; gate, up, their activation and
    product.)
    """
    width = max(row.prompt + max(row.answers) for row in rows)
    tokens = width * sum(len(row.answers) for row in rows)
    per_layer = 12 * config.hidden_size + 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    layers = config.num_hidden_layers
    kept = (config.hidden_size * layers + per_layer) if training.checkpointing else per_layer * layers
    size = 2 if training.autocast or training.weights == torch.bfloat16 else 4
    chunk = min(default_chunk(config.vocab_size), sum(row.scored for row in rows))
    trained_head = gradients and training.lora.lora_r is None
    head = 0 if training.values else 4 * config.vocab_size * (2 * chunk + (config.hidden_size if trained_head else 0))
    return Trace(Alive(size * tokens * (kept if gradients else per_layer), head))
