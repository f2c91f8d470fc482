"""The processes of one run: who this one is, and the few things that they tell one another.

Every rank (process) plans the same steps, computes its share of each, and adds up sums and counts with the others. All
collectives have the same shape on every rank, and every rank calls the same ones in the same order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from likelier.utils.errors import ConfigError

Part = TypeVar("Part")


@dataclass(frozen=True)
class Ranks:
    """This process's number among `size` processes; one process alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def share(self, parts: Sequence[Part]) -> list[Part]:
        """Every `size`-th of the parts, from `rank` on."""
        return list(parts[self.rank :: self.size])

    def joined(self, own: Sequence[Any]) -> list[Any]:
        """What the ranks made of the parts that `share` gave each of them, in the parts' order, on every rank. It is
        what JSON holds, NaN included: numbers come back bit for bit.
        """
        if not self.several:
            return list(own)
        found = [json.loads(text) for text in self._texts(json.dumps(list(own)))]
        return [found[number % self.size][number // self.size] for number in range(sum(map(len, found)))]

    def _texts(self, text: str) -> list[str]:
        """What each rank says, in their order."""
        data = text.encode()
        lengths = torch.zeros(self.size, dtype=torch.long)
        lengths[self.rank] = len(data)
        lengths = self.total(lengths)
        own = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        all_of_them = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(all_of_them, own)
        pairs = zip(all_of_them, lengths.tolist(), strict=True)
        return [bytes(one[:length].numpy()).decode() for one, length in pairs]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks; `values` has the same shape on each of them and is left alone."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def lowest(self, values: Tensor) -> Tensor:
        """The elementwise minimum over all ranks."""
        return self._reduced(values, distributed.ReduceOp.MIN)

    def highest(self, value: int) -> int:
        """The largest of the ranks' numbers."""
        return int(self._reduced(torch.tensor(value), distributed.ReduceOp.MAX))

    def all(self, holds: bool) -> bool:
        """Whether it holds on every rank."""
        return bool(self.lowest(torch.tensor(int(holds))))

    def wait(self) -> None:
        """Until all ranks have come here."""
        self.highest(0)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first rank does it, then all others do."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def text_of_first(self, text: str) -> str:
        """What the first rank says."""
        if not self.several:
            return text
        data = text.encode()
        length = torch.tensor(len(data))
        distributed.broadcast(length, 0)
        if not int(length):
            return ""
        sent = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_first:
            sent = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        distributed.broadcast(sent, 0)
        return bytes(sent.tolist()).decode()

    def require_same(self, what: str, text: str) -> None:
        """Raises `ConfigError` on every rank where the ranks do not hold the same thing, naming those that differ."""
        first = self.text_of_first(text)
        differs = torch.zeros(self.size, dtype=torch.long)
        differs[self.rank] = int(text != first)
        numbers = self.total(differs).nonzero().flatten().tolist()
        if numbers:
            raise ConfigError(
                f"the processes do not have the same {what}: that of rank {', '.join(map(str, numbers[:8]))} differs "
                "from that of rank 0; look at the files of its machine"
            )

    def _reduced(self, values: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
        if not self.several:
            return values
        found = values.detach().clone()
        distributed.all_reduce(found, how)
        return found


ALONE = Ranks()


def join_ranks(timeout: float | None = None) -> Ranks:
    """Join the processes that a launcher (torchrun, accelerate launch) started; alone without one.

    Args:
        timeout: seconds after which a collective that some rank does not come to is an error (default: torch's).

    Raises:
        ConfigError: the launcher's environment is incomplete.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if not distributed.is_initialized():
        if size == 1 and "MASTER_ADDR" not in os.environ:  # no launcher, whatever a cluster says of RANK
            return Ranks()
        _initialize(timeout)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def _initialize(timeout: float | None) -> None:
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"several processes were started without {', '.join(missing)}; start them with torchrun or accelerate"
        )
    backend = "gloo"  # also beside NCCL: what is told on the CPU must not wait for the device
    if torch.cuda.is_available():
        own, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= devices:
            raise ConfigError(f"more processes than devices on this machine ({devices}); start at most one for each")
        torch.cuda.set_device(own)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=None if timeout is None else timedelta(seconds=timeout))
