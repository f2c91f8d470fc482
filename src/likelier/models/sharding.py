"""Weights, gradients and optimizer state split between the ranks (FSDP2), and how they are saved and put together.

PyTorch's `fully_shard` does the work, on CUDA and on a CPU alike; every decoder layer is gathered when it is used. A
checkpoint holds each rank's slices as safetensors files with an index in JSON, so that any number of ranks, or one
process without sharding, can go on from it, bit for bit, and nothing that is read can execute code (the metadata of
`torch.distributed.checkpoint` is a pickle).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from likelier.models.adapter_parts import has_adapter, names_to_save, own_base
from likelier.models.layers import decoder_layers
from likelier.models.policy import Policy
from likelier.utils.distributed import Ranks
from likelier.utils.errors import ConfigError, RunFolderError, whole_reason

SHARDS = "sharded"
_INDEX = "index.json"
_STATE = "optimizer"


def shard_policy(policy: Policy, device: torch.device, ranks: Ranks) -> None:
    """Split every weight of a policy's model, in place, between the ranks, along its first dimension.

    What is outside the decoder layers (embeddings, head, last norm) is gathered once a forward pass; the model must be
    called as a whole, since only inside of that the head's weight can be used. Ranks whose model was loaded empty get
    the first one's weights, layer by layer, so that the whole model is nowhere but there.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    model = policy.model
    _require_plain_weights(model)
    if not ranks.all(not own_base(model).tensors):  # ranks with an empty model cannot know
        raise ConfigError(
            "shard does not go with an adapter that writes over weights of its base (biases, embeddings that grew, or "
            "what PiSSA leaves of it); merge it into its base first, or train without shard"
        )
    mesh = init_device_mesh(device.type, (ranks.size,))
    is_complete = ranks.all(not any(weight.is_meta for weight in model.parameters()))
    for module in (*decoder_layers(model), model):  # the model last: it takes what no layer has taken
        if not is_complete:
            _bring(module, device, ranks)
        fully_shard(module, mesh=mesh, mp_policy=_gathered_precision(policy))
    if has_adapter(model):  # an adapter generates with the model beneath it, past its own forward
        register_fsdp_forward_method(model, "generate")


def gathers_in_bfloat16(policy: Policy) -> bool:
    """Whether weights in float32 are made bfloat16 on their way to where they are used. Autocast alone would keep a
    copy of each until the backward pass, on every rank. (What lies beneath an adapter is in bfloat16 anyway.)
    """
    return policy.autocast and not has_adapter(policy.model)


def _gathered_precision(policy: Policy) -> Any:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if not gathers_in_bfloat16(policy):
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def _bring(module: nn.Module, device: torch.device, ranks: Ranks) -> None:
    """Give every rank the first one's weights and buffers of a module, but of those that are sharded already."""
    weights = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    held = {name: tensor for name, tensor in weights if not isinstance(tensor, DTensor)}
    shapes = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in held.items()]
    ranks.require_same("model", "\n".join(shapes))
    known: dict[int, Any] = {}  # tied weights stay tied
    for name, tensor in held.items():
        if id(tensor) not in known:
            value = tensor.detach().to(device) if ranks.is_first else torch.empty_like(tensor, device=device)
            distributed.broadcast(value, 0)
            trained = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(value, requires_grad=tensor.requires_grad) if trained else value
        owner, _, own_name = name.rpartition(".")
        place = module.get_submodule(owner)
        (place._parameters if own_name in place._parameters else place._buffers)[own_name] = known[id(tensor)]


def _require_plain_weights(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        if not weight.is_floating_point():
            raise ConfigError(f"shard does not go with weights in 4 bits ({name}); drop load_in_4bit, or shard")
        if weight.requires_grad and weight.dtype == torch.bfloat16:
            raise ConfigError("shard does not go with dtype=pure-bfloat16: its optimizer is not proved on slices")


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are split between ranks."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor of all ranks put together; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Gathering(nn.Module):
    """What Trainer is given in place of a sharded model, so that it neither wraps nor shards it again."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own."""
        return self.module(*args, **kwargs)


def gathered_state(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The whole weights as an ordinary state dict on the CPU, one weight after the other; of an adapter those of the
    adapter alone. Every rank must call it; without `keep` the result is empty.
    """
    wanted = names_to_save(model) if has_adapter(model) else None
    found: dict[str, Tensor] = {}
    known: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if wanted is not None and name not in wanted:
            continue
        first = known.setdefault(id(tensor), name)  # a tied weight is gathered once, and stays tied
        if first == name:
            entire = whole(tensor.detach())
            if keep:
                found[name] = entire.cpu()
        elif keep:
            found[name] = found[first]
    return found


# --- checkpoints -----------------------------------------------------------------------------------------------------


def _rows(length: int, size: int, rank: int) -> range:
    """Which rows of a first dimension lie on a rank, as `torch.chunk` and FSDP2 cut: 10 rows on 4 ranks are 3, 3, 3
    and 1, and 2 rows leave two of the ranks without any.
    """
    part = ceil(length / size)
    return range(min(rank * part, length), min((rank + 1) * part, length))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    """Write the trained weights and the optimizer's state: a file for each rank, and an index by the first."""
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    plain: dict[str, dict[str, Any]] = {}

    def add(name: str, value: Tensor) -> None:
        shapes[name] = list(value.shape)
        if isinstance(value, DTensor):
            local = value.to_local().detach()
            if local.numel():  # a rank may have no row of a short tensor
                tensors[name] = local.cpu().contiguous()
        elif ranks.is_first:
            tensors[name] = value.detach().cpu().contiguous()

    weights = _trained(model)
    for name, weight in weights.items():
        add(name, weight)
        for key, value in optimizer.state.get(weight, {}).items():
            if isinstance(value, Tensor):
                add(f"{_STATE}.{key}.{name}", value)
            else:
                plain.setdefault(name, {})[key] = value
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / _file(ranks.rank, ranks.size))
    if ranks.is_first:
        names = {id(weight): name for name, weight in weights.items()}
        index = {"size": ranks.size, "shapes": shapes, "state": plain, "groups": _groups(optimizer, names)}
        (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _file(rank: int, size: int) -> str:
    return f"{rank:05d}-of-{size:05d}.safetensors"


def _groups(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> list[dict[str, Any]]:
    return [
        {**group, "params": [names[id(weight)] for weight in group["params"] if id(weight) in names]}
        for group in optimizer.param_groups
    ]


class ShardedCheckpoint:
    """Slices that some number of ranks have written, to be read by any other number.

    Raises `RunFolderError` where a file is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            self._size = int(self._index["size"])
            self._shapes: dict[str, list[int]] = self._index["shapes"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{folder / _INDEX} cannot be read: {error}") from error

    def load_weights(self, model: nn.Module) -> None:
        """Put the trained weights into the model. Raises `RunFolderError` where they are not the same ones."""
        weights = _trained(model)
        stored = {name for name in self._shapes if not name.startswith(f"{_STATE}.")}
        if stored != set(weights):
            odd = sorted(stored ^ set(weights))[:3]
            raise RunFolderError(
                f"{self.folder} does not fit the model: {odd} are in one of them only; resume with the model that the "
                "run began with"
            )
        with self._open() as files, torch.no_grad():
            for name, weight in weights.items():
                self._require_shape(name, weight)
                local = weight.to_local() if isinstance(weight, DTensor) else weight
                local.copy_(self._read(files, name, weight))

    def load_optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the optimizer's state and the settings of its groups back."""
        weights = _trained(model)
        keys: dict[str, list[str]] = {}
        for name in self._shapes:
            if name.startswith(f"{_STATE}."):
                key, of = name.removeprefix(f"{_STATE}.").split(".", 1)
                keys.setdefault(of, []).append(key)
        with self._open() as files:
            for name, own in keys.items():
                state: dict[str, Any] = dict(self._index["state"].get(name, {}))
                for key in own:
                    state[key] = self._state(files, f"{_STATE}.{key}.{name}", weights[name])
                optimizer.state[weights[name]] = state
        for group, stored in zip(optimizer.param_groups, self._index["groups"], strict=True):
            group.update({key: value for key, value in stored.items() if key != "params"})
            for key, value in group.items():
                if key != "params" and isinstance(value, list):  # JSON knows no tuples, and betas are one
                    group[key] = tuple(value)

    def _state(self, files: list[Any], stored: str, weight: nn.Parameter) -> Tensor:
        if self._shapes[stored] != list(weight.shape):  # AdamW's count of steps, which the first rank has written
            return files[0].get_tensor(stored)
        local = self._read(files, stored, weight)
        if not isinstance(weight, DTensor):
            return local.to(weight.device)
        return DTensor.from_local(
            local.to(weight.device),
            weight.device_mesh,
            weight.placements,
            run_check=False,
            shape=weight.shape,
            stride=weight.stride(),
        )

    def _require_shape(self, name: str, weight: Tensor) -> None:
        if self._shapes[name] != list(weight.shape):
            raise RunFolderError(
                f"{self.folder}: {name} has the shape {self._shapes[name]}, the model's is {list(weight.shape)}; "
                "resume with the model that the run began with"
            )

    @contextmanager
    def _open(self) -> Iterator[list[Any]]:
        """The files of all ranks, open together."""
        paths = [self.folder / _file(rank, self._size) for rank in range(self._size)]
        with ExitStack() as stack:
            try:
                files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
            except Exception as error:
                raise RunFolderError(f"{self.folder} cannot be read: {whole_reason(error)}") from error
            yield files

    def _read(self, files: list[Any], name: str, weight: Tensor) -> Tensor:
        """This rank's rows of a stored tensor."""
        length = self._shapes[name][0]
        wanted = range(length)
        if isinstance(weight, DTensor):
            wanted = _rows(length, weight.device_mesh.size(), weight.device_mesh.get_local_rank())
        parts = list(self._pieces(files, name, length, wanted))
        return torch.cat(parts) if parts else torch.empty(0, *self._shapes[name][1:], dtype=weight.dtype)

    def _pieces(self, files: list[Any], name: str, length: int, wanted: range) -> Iterator[Tensor]:
        # Ten rows that three ranks wrote, read by two; rank 1 takes the end of file 1 and all of file 2:
        #     row         0 1 2 3 4 5 6 7 8 9
        #     written by  0 0 0 0 1 1 1 1 2 2
        #     read by     0 0 0 0 0 1 1 1 1 1
        for rank, file in enumerate(files):
            own = _rows(length, self._size, rank)
            start, stop = max(own.start, wanted.start), min(own.stop, wanted.stop)
            if start < stop:
                yield file.get_slice(name)[start - own.start : stop - own.start]
