"""Keys and values while answers are written: each prompt's once, and behind them what each of its answers has so far.

Generation by transformers holds a copy of the prompt for every answer, and copies all of it again for every token. Here
the answers to a prompt look at one copy together, and a token is written to its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from likelier.scoring.attention import attention_weights, require_known, shared_prefix_attention
from likelier.scoring.layout import Segment, Segments

_ROOM = 64  # tokens an answer that room is made for at once


@dataclass
class _Layer:
    """Prompts (prompts, heads, longest, head_dim) and answers (rows, heads, room, head_dim)."""

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor


class AnswerKeys:
    """The attention of a pass over some prompts, and of those that follow, each with one more token of every answer.

    Handed to a model's layers as `attends` (see `scoring.attention`). Rows are the answers that are being written:
    `answers` for each prompt at first; `leave` takes the finished ones out.
    """

    def __init__(self, prompts: list[Tensor], answers: int, device: torch.device) -> None:
        self.device = device
        sizes = [len(prompt) for prompt in prompts]
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        self._segments = Segments(tuple(map(Segment, starts, sizes)), device)
        self._sizes = torch.tensor(sizes, device=device)
        self._longest = max(sizes)
        self.prompt_of = torch.arange(len(prompts), device=device).repeat_interleave(answers)
        self.written = 0  # tokens of each answer that have been fed
        self._layers: dict[int, _Layer] = {}
        self._masks: dict[int | None, Tensor | None] = {}
        self._place_rows()

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """Arguments and result as `shared_prefix_attention`, `query` (1, heads, tokens, head_dim): the prompts' tokens
        at first, afterwards one of each row.
        """
        number = int(module.layer_idx)
        if number not in self._layers:
            self._layers[number] = self._of_prompts(key, value)
            return shared_prefix_attention(
                query,
                key,
                value,
                self._segments,
                scaling=scaling,
                dropout=dropout,
                sliding_window=sliding_window,
                softcap=softcap,
                s_aux=s_aux,
                **others,
            )
        require_known(dropout, others)
        layer = self._layers[number]
        self._write(layer, key, value)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        heads = key.shape[1]
        queries = query[0].transpose(0, 1).unflatten(1, (heads, -1)) * scale  # (rows, heads, queries a head, head_dim)
        sinks = None if s_aux is None else s_aux.view(1, heads, -1, 1)
        attended = self._attend(layer, queries, self._mask(sliding_window), softcap, sinks)
        return attended.flatten(1, 2)[None]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, with the room that is made for more."""
        held = ((one.prompt_keys, one.prompt_values, one.keys, one.values) for one in self._layers.values())
        return sum(tensor.nbytes for layer in held for tensor in layer)

    def step(self) -> Tensor:
        """Count one more token of each row; (rows,) the positions at which these stand."""
        self._masks.clear()
        self.written += 1
        return self._sizes[self.prompt_of] + self.written - 1

    def leave(self, stays: Tensor) -> Tensor:
        """Keep the rows that `stays` (rows,) bool; the last ones move into the places that become free. Returns the
        rows' numbers before, (rows that stay,).
        """
        kept = int(stays.sum())
        order = torch.arange(kept, device=self.device)
        free, moved = (~stays[:kept]).nonzero()[:, 0], stays[kept:].nonzero()[:, 0] + kept
        order[free] = moved
        for layer in self._layers.values():
            for held in (layer.keys, layer.values):
                held[free, :, : self.written] = held[moved, :, : self.written]
        self.prompt_of = self.prompt_of[order]
        self._drop_prompts()
        self._place_rows()
        return order

    def _drop_prompts(self) -> None:
        asked = torch.zeros(len(self._sizes), dtype=torch.bool, device=self.device)
        asked[self.prompt_of] = True
        if bool(asked.all()):
            return
        self._sizes = self._sizes[asked]
        self.prompt_of = (asked.cumsum(0) - 1)[self.prompt_of]
        for layer in self._layers.values():
            layer.prompt_keys, layer.prompt_values = layer.prompt_keys[asked], layer.prompt_values[asked]

    def _place_rows(self) -> None:
        """Where each row stands among those of its prompt, in a table (prompts, most rows of one) laid flat."""
        same = self.prompt_of[:, None] == self.prompt_of
        rank = same.tril(-1).sum(1)
        self._widest = int(rank.max()) + 1 if len(rank) else 0
        self._place = self.prompt_of * self._widest + rank
        self._even = bool((self._sizes == self._longest).all())
        # As it is until the first answer ends: rows lie as in the table, and none has to be moved there.
        places = torch.arange(len(self._place), device=self.device)
        self._is_table = len(places) == len(self._sizes) * self._widest and bool((self._place == places).all())
        self._masks.clear()

    def _of_prompts(self, key: Tensor, value: Tensor) -> _Layer:
        sizes = [segment.length for segment in self._segments.segments]

        def padded(tensor: Tensor) -> Tensor:
            pieces = tensor[0].transpose(0, 1).split(sizes)
            return pad_sequence(list(pieces), batch_first=True).transpose(1, 2).contiguous()

        nothing = [
            tensor.new_empty(len(self.prompt_of), tensor.shape[1], 0, tensor.shape[3]) for tensor in (key, value)
        ]
        return _Layer(padded(key), padded(value), *nothing)

    def _write(self, layer: _Layer, key: Tensor, value: Tensor) -> None:
        place = self.written - 1
        if place == layer.keys.shape[2]:
            layer.keys, layer.values = (
                _with_more_room(held, len(self.prompt_of)) for held in (layer.keys, layer.values)
            )
        layer.keys[: key.shape[2], :, place] = key[0].transpose(0, 1)
        layer.values[: value.shape[2], :, place] = value[0].transpose(0, 1)

    def _attend(
        self, layer: _Layer, queries: Tensor, mask: Tensor | None, softcap: float | None, sinks: Tensor | None
    ) -> Tensor:
        """(rows, heads, queries a head, head_dim): one softmax over a prompt's keys and the row's own."""
        rows, size = len(queries), layer.prompt_keys.shape[2]
        keys, values = (held[:rows, :, : self.written] for held in (layer.keys, layer.values))
        at_prompt = self._by_row(self._by_prompt(queries) @ layer.prompt_keys.transpose(2, 3), queries.shape[2])
        scores = torch.cat([at_prompt, queries @ keys.transpose(2, 3)], dim=3)
        weights = attention_weights(scores, mask, softcap, sinks).to(values.dtype)
        to_prompt = self._by_prompt(weights[..., :size]) @ layer.prompt_values
        return self._by_row(to_prompt, queries.shape[2]) + weights[..., size:] @ values

    def _by_prompt(self, rows: Tensor) -> Tensor:
        """(rows, heads, n, m) as (prompts, heads, most rows of a prompt * n, m), zeros where a prompt has fewer."""
        prompts, table = len(self._sizes), rows
        if not self._is_table:
            table = rows.new_zeros(prompts * self._widest, *rows.shape[1:]).index_copy(0, self._place, rows)
        return table.unflatten(0, (prompts, self._widest)).transpose(1, 2).flatten(2, 3)

    def _by_row(self, prompts: Tensor, queries: int) -> Tensor:
        """The way back from `_by_prompt`."""
        table = prompts.unflatten(2, (self._widest, queries)).transpose(1, 2).flatten(0, 1)
        return table if self._is_table else table[self._place]

    def _mask(self, window: int | None) -> Tensor | None:
        """(rows, 1, 1, keys) bool, which keys each row sees; None for all."""
        if window not in self._masks:
            self._masks[window] = self._seen(window)
        return self._masks[window]

    def _seen(self, window: int | None) -> Tensor | None:
        sizes = self._sizes[self.prompt_of][:, None]
        if window is not None and window >= self._longest + self.written:
            window = None  # it hides nothing yet
        if window is None and self._even:
            return None
        prompt = torch.arange(self._longest, device=self.device).expand(len(sizes), -1)
        own = torch.arange(self.written, device=self.device).expand(len(sizes), -1)
        seen, positions = torch.cat([prompt < sizes, own >= 0], 1), torch.cat([prompt, own + sizes], 1)
        if window is not None:
            seen = seen & (positions > sizes + self.written - 1 - window)
        return seen[:, None, None]


def rooms(tokens: int) -> list[int]:
    """Room an answer, in tokens, each time that more was made, until so many tokens of it were fed."""
    found = [_ROOM] if tokens else []
    while found and found[-1] < tokens:
        found.append(found[-1] + _more(found[-1]))
    return found


def _more(room: int) -> int:
    """As many tokens again, at least some."""
    return max(_ROOM, room)


def _with_more_room(held: Tensor, rows: int) -> Tensor:
    """With more room, for the rows that there still are."""
    more = _more(held.shape[2])
    return torch.cat([held[:rows], held.new_empty(rows, held.shape[1], more, held.shape[3])], dim=2)
