"""`likelier chat`: the policy's answer and its reference's to the same prompt, each with its implicit reward.

Both answers are scored under both models, as `likelier score` does it: a reward says how much likelier training has
made this answer, whoever wrote it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from likelier.data.dates import dated
from likelier.data.groups import Group
from likelier.data.records import Message, Source
from likelier.data.rendering import render
from likelier.models.generation import Decoding, Written, prompt_ids, write_answers
from likelier.models.policy import Policy, load_policy
from likelier.scoring.implicit_rewards import implicit_rewards
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.restore import (
    adapter_gone_on_from,
    card_of,
    final_model,
    has_no_reference,
    recorded_chat,
    reference_for,
)
from likelier.utils.console import printable, put, say
from likelier.utils.errors import ConfigError, LikelierError, require_text
from likelier.utils.terminal import counting

Prompt = str | tuple[Message, ...]
WIDE = 100
_COMMANDS = "/new begins a new conversation, /quit (or Ctrl-D) ends"


@dataclass(frozen=True)
class Answer:
    """An answer, who wrote it, and its scores under both models: the entries of `likelier score` (`reward`, ...)."""

    who: str
    written: Written
    scores: dict[str, Any]


@dataclass(frozen=True)
class Pairing:
    """A policy beside its reference. `scale` multiplies log-ratios to rewards; None for methods without a reference,
    where the other model is the one that training began with.
    """

    policy: Policy
    reference: Reference
    scale: float | None
    decoding: Decoding
    how: ReferenceScoring

    @property
    def talks(self) -> bool:
        """Whether prompts are conversations (the tokenizer has a chat template), not plain text to be continued."""
        return bool(self.policy.tokenizer.chat_template)

    def answers(self, prompt: Prompt, turn: int = 0) -> tuple[Answer, Answer]:
        """The policy's and the reference's answer to the same tokens, scored; `turn` moves the seed.

        Raises `ConfigError` where the prompt leaves no room in the model's context.
        """
        policy = self.policy
        ids = prompt_ids(policy, prompt)
        decoding = self._fitting(len(ids), turn)
        with counting("writing two answers, in tokens", None) as report:
            mine = write_answers(policy.model, policy.tokenizer, [ids], decoding, report)[0]
            with self.reference.use() as model:
                theirs = write_answers(model, policy.tokenizer, [ids], decoding, report)[0]
        answers = tuple(np.asarray(_scored_ids(policy, prompt, ids, one), dtype=np.int32) for one in (mine, theirs))
        group = Group(np.asarray(ids, dtype=np.int32), answers, Source("chat", 1, "turn"))
        beta = 1.0 if self.scale is None else self.scale
        row = implicit_rewards(policy, self.reference, [group], self.how, beta=beta, per_token=False)[0]
        other = "beginning" if self.scale is None else "reference"
        return (
            Answer(f"policy: {policy.name}", mine, row["chosen"]),
            Answer(f"{other}: {self.reference.words}", theirs, row["rejected"]),
        )

    def _fitting(self, length: int, turn: int) -> Decoding:
        most, context = self.decoding.max_new_tokens, self.policy.context
        if context is not None and length >= context:
            raise ConfigError(
                f"the prompt has {length} tokens, and the model's context {context}; shorten or begin anew"
            )
        room = most if context is None else min(most, context - length)
        return replace(self.decoding, max_new_tokens=room, seed=self.decoding.seed + turn)


def pair_up(
    model: str, *, reference: str | None = None, system: str | None = None, decoding: Decoding | None = None
) -> Pairing:
    """Load a policy and its reference: the named one, the one that the run recorded, or an adapter's base.

    Raises `LikelierError` where one of them cannot be had, or is not what the run was trained against.
    """
    name = final_model(model)
    card = card_of(name)
    chat = recorded_chat(card)
    policy = load_policy(name, chat=replace(chat, system_prompt=system) if system else chat)
    policy.chat = dated(policy.chat, policy.tokenizer.chat_template)
    if system and not policy.tokenizer.chat_template:
        raise ConfigError(f"system has no effect: the tokenizer of {model} has no chat template; drop it")
    how = ReferenceScoring.here(policy)
    if reference is None and has_no_reference(card):
        reference = adapter_gone_on_from(card)
    known = reference_for(name, reference, card, policy, "auto", ())
    scale = None if has_no_reference(card) else card.reward_scale or 0.1
    return Pairing(policy, known, scale, decoding or Decoding(), how)


def chat(
    model: str,
    *,
    reference: str | None = None,
    system: str | None = None,
    decoding: Decoding | None = None,
    prompts: Sequence[str] = (),
) -> None:
    """Print both models' answers to each of `prompts`; without any, to what is typed, line by line.

    A conversation goes on with the policy's answers.
    """
    for prompt in prompts:
        require_text("the prompt", prompt)
    pairing = pair_up(model, reference=reference, system=system, decoding=decoding)
    _introduce(pairing, own_scale=bool(card_of(final_model(model)).reward_scale))
    if not prompts:
        _converse(pairing)
    for number, prompt in enumerate(prompts):
        put(f"> {prompt}\n")
        _show_turn(pairing, (Message("user", prompt),) if pairing.talks else prompt, number)


def _introduce(pairing: Pairing, *, own_scale: bool) -> None:
    policy, decoding = pairing.policy, pairing.decoding
    with pairing.reference.use() as other:
        shared = other is policy.model
    say(f"policy: {policy.words}")
    say(f"{'beginning' if pairing.scale is None else 'reference'}: {pairing.reference.words}")
    say("one model is in memory, its adapter switched off for the other side" if shared else "two models are in memory")
    if pairing.scale is None:
        say("the run's method has no reference, so there are no rewards: mean log-probabilities are shown instead")
    else:
        say(f"rewards: {pairing.scale:g} x log-ratio ({'the run' if own_scale else 'by default'})")
    how = f"drawn at temperature {decoding.temperature:g}" if decoding.temperature else "greedy"
    say(f"answers: {how}, at most {decoding.max_new_tokens} tokens")
    if not pairing.talks:
        say("the tokenizer has no chat template: each line is continued as plain text, and none is remembered")


def _converse(pairing: Pairing) -> None:
    """Answer line after line until the input ends; Ctrl-C ends too."""
    talk: tuple[Message, ...] = ()
    if sys.stdin.isatty():
        say(_COMMANDS)
    try:
        for turn, line in enumerate(_lines()):
            if line in ("/quit", "/exit"):
                return
            if line == "/new":
                talk = ()
            elif line.startswith("/") and line[1:].isalpha():
                say(f"{line} is no command; {_COMMANDS}")
            elif line:
                talk = _go_on(pairing, talk, line, turn)
    except KeyboardInterrupt:
        say("")


def _go_on(pairing: Pairing, talk: tuple[Message, ...], line: str, turn: int) -> tuple[Message, ...]:
    """Answer one line; returns the conversation with it, or as it was where the line cannot be answered."""
    try:
        require_text("the prompt", line)
        asked = (*talk, Message("user", line))
        answer = _show_turn(pairing, asked if pairing.talks else line, turn)
    except LikelierError as error:
        say(f"error: {error}")
        return talk
    return (*asked, Message("assistant", answer.written.text))


def _lines() -> Iterator[str]:
    """What is typed, or comes through a pipe (then it is repeated in the output)."""
    is_typed = sys.stdin.isatty()
    if is_typed:
        with suppress(ImportError):
            import readline  # noqa: F401  (input() then knows arrow keys and earlier lines)
    while True:
        try:
            line = input("> " if is_typed else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise ConfigError("the input is not UTF-8 text; convert it to UTF-8") from error
        if not is_typed:
            put(f"> {line}")
        print()
        yield line


def _show_turn(pairing: Pairing, prompt: Prompt, turn: int) -> Answer:
    """Print both answers; returns the policy's."""
    from likelier.utils.terminal import SafeConsole

    with _waiting():
        answers = pairing.answers(prompt, turn)
    show(answers, pairing.scale, SafeConsole())
    return answers[0]


@contextmanager
def _waiting() -> Iterator[None]:
    """A sign of life while answers are written; silent where nobody looks."""
    from likelier.utils.terminal import SafeConsole

    console = SafeConsole(stderr=True)
    with console.status("writing") if console.is_terminal else nullcontext():
        yield


def show(answers: Sequence[Answer], scale: float | None, console: Any) -> None:
    """Print answers side by side in a wide terminal (a rich console), else one under the other."""
    if console.is_terminal and console.width >= WIDE:
        console.print(_columns(answers, scale))
        console.print()
        return
    for answer in answers:
        lines = [*_text(answer).splitlines(), score_words(answer, scale)]
        put("\n".join([answer.who, *(f"  {line}" for line in lines), ""]))


def _columns(answers: Sequence[Answer], scale: float | None) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3), expand=True)
    for _ in answers:
        table.add_column(ratio=1, overflow="fold")
    table.add_row(*(Text(printable(answer.who), style="bold") for answer in answers))
    table.add_row(*(Text(_text(answer)) for answer in answers))
    table.add_row(*(Text(score_words(answer, scale), style="dim") for answer in answers))
    return table


def _text(answer: Answer) -> str:
    return printable(answer.written.text).strip() or "(an empty answer)"


def score_words(answer: Answer, scale: float | None) -> str:
    """One line: the reward and what it is made of; without a reference, the mean log-probabilities."""
    scores, cut = answer.scores, "" if answer.written.is_whole else "; cut off here"
    if scale is None:
        mine, theirs = scores["logp_per_token"], scores["ref_logp_per_token"]
        return (
            f"{mine:+.3f} nats a token under the policy, {theirs:+.3f} at the beginning; {scores['length']} tokens{cut}"
        )
    return (
        f"reward {scores['reward']:+.4f} = {scale:g} x {scores['logratio']:+.3f} nats "
        f"({scores['length']} tokens, {scores['logratio_per_token']:+.4f} each){cut}"
    )


def _scored_ids(policy: Policy, prompt: Prompt, ids: list[int], written: Written) -> list[int]:
    """The tokens of an answer as training and `likelier score` count them: those that were written, and what the
    template puts behind the end of an answer. One that was cut off, or is spelled in tokens that its text does not give
    again, is scored as it was written.
    """
    if isinstance(prompt, str) or not written.is_whole:
        return written.ids
    text = render(policy.tokenizer, (*prompt, Message("assistant", written.text)), policy.chat, "the answer")
    whole = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    own = ids + written.ids
    return whole[len(ids) :] if whole[: len(own)] == own else written.ids
