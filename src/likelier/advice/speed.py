"""How fast a device computes a run: measured here in a few seconds, or reckoned from a GPU's figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from likelier.advice.gpus import gpu_of
from likelier.advice.known import known_time
from likelier.advice.memory import Planner, own_memory
from likelier.advice.trace import Training, build, layer_pattern, made_up_group
from likelier.data.lengths import Row
from likelier.models.layers import backbone_of, causal_model, checkpoint_activations, value_head
from likelier.online.sampling import Sampling
from likelier.online.sampling.drawing import draw
from likelier.online.sampling.keys import AnswerKeys
from likelier.online.sampling.local import logits_behind
from likelier.scoring import collate
from likelier.scoring.attention import UnknownAttentionError, install_attention, restore_attention
from likelier.scoring.plain import score_plain
from likelier.scoring.shared_prefix import score_shared_prefix
from likelier.scoring.values import state_values_plain, state_values_shared
from likelier.training.duration import Speed
from likelier.training.work import Work
from likelier.utils.errors import ConfigError

Clock = Callable[[], float]
_WHOLE = 10**9  # bytes of weights up to which a model is measured whole; beyond, layers of it
_REPEATS = 3  # after one that does not count; one where that took half a second or more
_SLOW = 0.5
_TOKENS = {"cpu": 300, "cuda": 2**20}  # of the micro-batch: on a CPU a token of more takes as long
_ROW = {"cpu": 1024, "cuda": 2**20}
_WRITTEN = 4  # tokens that are written to time one
_VOCABULARY = 32_768  # of the layers that are measured; the head's time is drawn on to the model's own
_UPDATED = 2**22  # weights that are updated to time one
_MEASURED = 0.3  # how far off a measured time may be: about a third
_POOL = 2**20
_JUST_NOW = 120.0  # seconds


def speed_for(gpu: str | None) -> Callable[[Planner, Work], Speed]:
    """What tells the speed: the figures of a GPU that is named, or a measurement on this machine."""
    if gpu is not None:
        return lambda planner, work: reckoned(planner, work, gpu)
    return _known_speed


def _known_speed(planner: Planner, work: Work) -> Speed:
    """What this machine was measured at, for such rows of such a model; within `remembered_plans` once a week."""
    device = planner.asked.device
    measure = replace(work, micro_batch=_some_of(work.micro_batch, device))
    key = {
        "training": repr(planner.asked.training),
        "trained": planner.weights.trained,
        "rows": repr(measure.micro_batch),
        "written": [work.prompt, work.together, work.answers, bool(work.written), bool(work.sampling.written)],
    }
    found, at = known_time(planner.known.config, key, device, lambda: asdict(measured(planner, measure)))
    speed = Speed(**found)
    if time.time() - at < _JUST_NOW:
        return speed
    return replace(speed, words=f"{speed.words}, on {datetime.fromtimestamp(at):%d %B at %H:%M}")


_EFFICIENCY = 0.35  # of the products that the maker states: 0.3 to 0.5 is what published training runs reach
_TRAFFIC = 0.6  # of the traffic
_LAUNCHES = 1.2e-3  # seconds a layer for one token more: the host cannot ask for less any faster
_QUANTIZED = 1.5  # as long for a 4-bit base, whose layers are unpacked for every product
_RECKONED = 0.5


def reckoned(planner: Planner, work: Work, gpu: str) -> Speed:
    """The speed of a GPU that is not at hand, from its table: two operations a weight and token forward, as many for
    the activations' gradients, as many for the weights' where they are trained, once more forward with checkpointing.
    """
    known, training, weights = gpu_of(gpu), planner.asked.training, planner.weights
    text = planner.known.config.get_text_config()
    table = text.vocab_size * text.hidden_size
    tied = 1 if getattr(planner.known.config, "tie_word_embeddings", False) else 2
    tokens = sum(row.tokens for row in work.micro_batch)
    headed = sum(row.scored for row in work.micro_batch) / tokens
    met = weights.count - (table if training.values else tied * table - headed * table)
    product = 2 * met
    slow = _QUANTIZED if training.lora.load_in_4bit else 1.0
    forward = slow * product / (_EFFICIENCY * known.products)
    passes = (2 if training.lora.lora_r is not None else 3) + (1 if training.checkpointing else 0)
    reading = weights.bytes / (_TRAFFIC * known.traffic)
    written = max(reading, _LAUNCHES * text.num_hidden_layers, work.together * forward)
    return Speed(
        passes * forward,
        forward,
        written,
        16 * weights.trained / (_TRAFFIC * known.traffic),
        _RECKONED,
        f"reckoned for {gpu} from its maker's figures at {_EFFICIENCY:.0%} of its peak, which no run here has "
        "confirmed: half as long or half as long again would be no surprise",
        _TRAFFIC * known.link,
    )


@dataclass(frozen=True)
class _Timed:
    """Seconds of one micro-batch forward and backward, forward, and of one token of a batch of answers."""

    trained: float
    scored: float
    written: float


def _some_of(rows: Sequence[Row], device: str) -> tuple[Row, ...]:
    """So much of a micro-batch as tells a token's time: a few seconds, not a minute."""
    found: list[Row] = []
    for row in rows:
        if found and sum(one.tokens for one in (*found, row)) > _TOKENS[device]:
            break
        found.append(row.scaled(min(1.0, _ROW[device] / row.tokens)))
    return tuple(found)


def _drawn_on(shallow: _Timed, deep: _Timed, times: float, head: float) -> _Timed:
    """From few layers and twice as many to `times` as many as the few; what is no layer's takes `head` times as
    long.
    """

    def whole(few: float, more: float) -> float:
        layers = max(more - few, 0.0)
        return max(few - layers, 0.0) * head + layers * times

    return _Timed(
        whole(shallow.trained, deep.trained),
        whole(shallow.scored, deep.scored),
        whole(shallow.written, deep.written),
    )


def measured(planner: Planner, work: Work, *, clock: Clock = time.perf_counter) -> Speed:
    """Run the model's layers forward and backward on this machine, at the run's usual micro-batch.

    Weights are made up, so that a configuration is enough. A model of up to a gigabyte runs whole; of a larger one two
    depths run, and what a layer adds is drawn on. Raises `ConfigError` where this machine cannot hold two layers.
    """
    training, config = planner.asked.training, planner.known.config
    if planner.asked.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no GPU here to measure on; name the one it will run on with --gpu")
    device = torch.device(planner.asked.device)
    layers = config.get_text_config().num_hidden_layers
    work = replace(work, micro_batch=_some_of(work.micro_batch, device.type))
    timer = _Timer(device, clock)
    if planner.weights.bytes <= _WHOLE:
        found, how = _timed(config, training, None, work, timer), "the whole model"
    else:
        few = layer_pattern(config)
        _require_room(planner, few)
        smaller, head = _with_small_vocabulary(config)
        shallow, deep = (_timed(smaller, training, depth, work, timer) for depth in (few, 2 * few))
        found = _drawn_on(shallow, deep, layers / few, head)
        how = f"{2 * few} of its {layers} layers"
    tokens = sum(row.tokens for row in work.micro_batch)
    return Speed(
        found.trained / tokens,
        found.scored / tokens,
        found.written,
        _update(device, clock) * planner.weights.trained,
        _MEASURED,
        f"measured on this machine: {how}, with made-up weights, at {len(work.micro_batch)} rows and {tokens:,} tokens",
    )


@dataclass(frozen=True)
class _Timer:
    """Seconds of something that is done again and again, on a device that may run behind."""

    device: torch.device
    clock: Clock

    def __call__(self, work: Callable[[], object], repeats: int = _REPEATS) -> float:
        first = self._once(work)
        return median(self._once(work) for _ in range(repeats if first < _SLOW else 1))

    def _once(self, work: Callable[[], object]) -> float:
        self._wait()
        begun = self.clock()
        work()
        self._wait()
        return self.clock() - begun

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _timed(config: Any, training: Training, layers: int | None, work: Work, timer: _Timer) -> _Timed:
    with torch.random.fork_rng(devices=[]):
        model = _made_up(config, training, layers, timer.device)
        batch = collate(
            [made_up_group(row, number) for number, row in enumerate(work.micro_batch)], device=timer.device
        )
        score = _scorer(model)
        autocast = torch.autocast(timer.device.type, torch.bfloat16, enabled=training.autocast, cache_enabled=False)

        def forward() -> Tensor:
            return score(model, batch).logps

        def step() -> None:
            forward().sum().backward()

        with autocast:
            with torch.no_grad():
                shared = score is score_shared_prefix and bool(work.sampling.written)
                scored, written = timer(forward), (_sampled if shared else _written)(model, work, timer)
            if training.checkpointing:
                checkpoint_activations(model)
            model.train()
            return _Timed(timer(step), scored, written)


def _scorer(model: nn.Module) -> Callable[..., Any]:
    """The scorer that a run would most likely take."""
    causal, values = causal_model(model), value_head(model) is not None
    try:
        if any(isinstance(module, nn.Conv1d) for module in backbone_of(causal).modules()):
            raise UnknownAttentionError("it has convolutions along the row")
        install_attention(causal)
    except UnknownAttentionError:
        restore_attention(causal)
        return state_values_plain if values else score_plain
    return state_values_shared if values else score_shared_prefix


def _written(model: Any, work: Work, timer: _Timer) -> float:
    """Seconds of one token more for a batch of answers."""
    if not (work.written or work.sampling.written):
        return 0.0
    causal = causal_model(model)
    restore_attention(causal)
    length = max(1, min(work.prompt, _TOKENS[timer.device.type] // work.together))
    prompts = torch.ones((work.together, length), dtype=torch.long, device=timer.device)
    cache = causal(input_ids=prompts, use_cache=True, logits_to_keep=1).past_key_values

    def write() -> None:
        for _ in range(_WRITTEN):
            causal(input_ids=prompts[:, :1], past_key_values=cache, use_cache=True)

    seconds = timer(write, 2) / _WRITTEN
    install_attention(causal)
    return seconds


def _sampled(model: Any, work: Work, timer: _Timer) -> float:
    """The same where answers share the keys of their prompt: behind prompts that are cut to what is soon read."""
    causal, count = causal_model(model), max(1, work.together // work.answers)
    length = max(1, min(work.prompt, _TOKENS[timer.device.type] // count))
    keys = AnswerKeys([torch.zeros(length)] * count, work.answers, timer.device)
    sampling = Sampling(1)

    def passed(tokens: int, positions: Tensor, wanted: Tensor | None) -> Tensor:
        ids = torch.ones(tokens, dtype=torch.long, device=timer.device)
        return logits_behind(causal, ids, positions, keys, wanted)

    numbers = torch.full((count * work.answers,), 0.5, dtype=torch.float64, device=timer.device)
    passed(count * length, torch.arange(length, device=timer.device).repeat(count), torch.zeros(1, dtype=torch.long))

    def write() -> None:
        for _ in range(_WRITTEN):
            draw(passed(len(numbers), keys.step(), None), numbers, sampling)

    return timer(write, 2) / _WRITTEN


def _made_up(config: Any, training: Training, layers: int | None, device: torch.device) -> Any:
    """The model as it would be trained, its weights and buffers filled with noise: values change no time."""
    with torch.device("meta"):
        model = build(config, training, layers)
    model = model.to_empty(device=device)
    causal_model(model).tie_weights()
    noise = torch.randn(_POOL) * 0.02
    for weight in model.parameters():
        _fill(weight.data, noise)
    for buffer in model.buffers():
        _fill(buffer, noise.abs() + 0.5) if buffer.is_floating_point() else buffer.zero_()
    return model


def _fill(tensor: Tensor, noise: Tensor) -> None:
    flat = tensor.view(-1)
    for part in flat.split(len(noise)):
        part.copy_(noise[: len(part)])


def _with_small_vocabulary(config: Any) -> tuple[Any, float]:
    """The configuration with a vocabulary that is quick to make, and how many times larger its own is."""
    config = deepcopy(config)
    text = config.get_text_config()
    own = text.vocab_size
    text.vocab_size = min(own, _VOCABULARY)
    return config, own / text.vocab_size


def _require_room(planner: Planner, few: int) -> None:
    """Raises `ConfigError` where two depths of layers, with gradients, would fill the memory here."""
    config = planner.known.config.get_text_config()
    layers = 2 * few * planner.weights.bytes / config.num_hidden_layers
    here = own_memory(planner.asked.device)
    if here is not None and 3 * layers > here:
        raise ConfigError(
            "this machine cannot hold two of the model's layers with their gradients, so no time was measured; name "
            "the GPU with --gpu"
        )


def _update(device: torch.device, clock: Clock) -> float:
    """Seconds of AdamW and of the gradient's norm, a weight."""
    weight, gradient, first, second = (torch.zeros(_UPDATED, device=device) for _ in range(4))
    count = torch.zeros((), device=device)
    usual: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "lr": 1e-6, "weight_decay": 0.0, "eps": 1e-8}

    def update() -> None:
        gradient.mul_(1 / (gradient.norm() + 1))
        kinds: dict[str, Any] = {"amsgrad": False, "maximize": False, "fused": True}
        adamw([weight], [gradient], [first], [second], [], [count], **kinds, **usual)

    return _Timer(device, clock)(update) / _UPDATED
