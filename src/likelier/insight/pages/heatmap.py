"""Tokens coloured by their share of an answer's reward: blue raised it, orange lowered it. Terminal and HTML.

An `answer` is what `rewards` writes per token: `tokens`, each with `text`, `logp` and, where there is a reference,
`ref_logp` and `logratio`. A token's share is its log-ratio (times the reward scale); without a reference, its
log-probability; of an answer that a critic judged, its `advantage`; of a reward model the `change` of the score at that
token. The depth of the colour is the share's size beside the largest of the pair. A token that is not trained on
(`trained` is false: a tool's or a user's, between turns) has none of these and is shown dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from likelier.utils.console import printable

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.text import Text

LEVELS = 5
_FAINTEST = 0.06  # a share smaller than this part of the largest stays uncoloured
_MINUS = "\u2212"

# Low levels colour the letters, high ones what lies beneath, so that they read alike on dark and light terminals.
_STYLES = {
    1: ["#4a8fd0", "bold #4a8fd0", "white on #4f7fb0", "white on #2467b3", "bold white on #004a9f"],
    -1: ["#c47a1a", "bold #c47a1a", "black on #d3ac74", "black on #e69f2b", "bold black on #ff8c00"],
}


@dataclass(frozen=True)
class Piece:
    """A readable piece of text: one token, or the few that make one character together."""

    text: str
    tokens: tuple[Mapping[str, Any], ...]

    @property
    def is_trained(self) -> bool:
        """Whether any of its tokens is trained on."""
        return any(map(_is_trained, self.tokens))

    @property
    def share(self) -> float:
        """The sum of its tokens' shares, in nats."""
        return sum(map(share_of, self.tokens))

    @property
    def shown(self) -> str:
        """Its text, line breaks and tabs visible, with nothing that could steer a terminal or a page."""
        return printable(self.text).replace("\t", "\u21e5\t").replace("\n", "\u21b5\n")

    @property
    def cell(self) -> str:
        """The same for a table, on one line, blanks visible."""
        text = printable(self.text).replace("\n", "\u21b5").replace("\t", "\u21e5").replace(" ", "\u00b7")
        return text or "(nothing)"

    def total(self, name: str) -> float | None:
        """The sum of its tokens' values of that name, of scores so far the last one; None where they have none."""
        if name == "score":
            return self.tokens[-1].get(name)
        values = [token[name] for token in self.tokens if token.get(name) is not None]
        return sum(values) if len(values) == len(self.tokens) else None


def share_of(token: Mapping[str, Any]) -> float:
    """What a token adds to the reward, before its scale: the log-ratio; without a reference the log-probability; its
    advantage, where a critic told one; of a reward model the change of its score; one that is not trained on, nothing.
    """
    if not _is_trained(token):
        return 0.0
    told = (token.get(name) for name in ("change", "advantage", "logratio", "logp"))
    return float(next(value for value in told if value is not None))


def _is_trained(token: Mapping[str, Any]) -> bool:
    return bool(token.get("trained", True))


def pieces_of(answer: Mapping[str, Any]) -> list[Piece]:
    """The answer's tokens as readable pieces.

    Tokens of a part of a character have no text of their own: they go with the one that completes it. A run of tokens
    that are no text at all becomes one piece.
    """
    pieces: list[tuple[str, list[Mapping[str, Any]]]] = []
    for token in answer["tokens"]:
        text = str(token["text"])
        alike = bool(pieces) and _is_trained(pieces[-1][1][-1]) == _is_trained(token)
        if alike and (not pieces[-1][0] or (_is_broken(pieces[-1][0]) and _is_broken(text))):
            before, tokens = pieces[-1]
            pieces[-1] = (before or text, [*tokens, token])
        else:
            pieces.append((text, [token]))
    return [Piece(text, tuple(tokens)) for text, tokens in pieces]


def _is_broken(text: str) -> bool:
    return bool(text) and not text.strip("\ufffd")


def scale_of(*answers: Mapping[str, Any]) -> float:
    """The largest share among the answers' pieces, in nats; what the deepest colour stands for."""
    shares = [abs(piece.share) for answer in answers for piece in pieces_of(answer)]
    return max((share for share in shares if isfinite(share)), default=0.0)


def level_of(share: float, scale: float) -> int:
    """From -LEVELS (lowered the reward most) over 0 (hardly at all) to LEVELS."""
    if not isfinite(share) or scale <= 0 or abs(share) < _FAINTEST * scale:
        return 0
    level = min(LEVELS, int(abs(share) / scale * LEVELS) + 1)
    return level if share > 0 else -level


def numbers_of(piece: Piece) -> str:
    """One line: what a piece adds, for who hovers over it."""
    if not piece.is_trained:
        return "not trained on"
    named = (("policy", "logp"), ("reference", "ref_logp"), ("log-ratio", "logratio"), ("reward", "reward"))
    named = (*named, ("advantage", "advantage"), ("score so far", "score"), ("change", "change"))
    of_states = (("value before it", "value"),) if len(piece.tokens) == 1 else ()
    found = [(words, piece.total(name)) for words, name in (*named, *of_states)]
    parts = [f"{words} {signed(value)}" for words, value in found if value is not None]
    several = f" ({len(piece.tokens)} tokens)" if len(piece.tokens) > 1 else ""
    return ", ".join(parts) + several


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def token_spans(answer: Mapping[str, Any], scale: float) -> Markup:
    """The answer as HTML: a span a piece, coloured by its share, its numbers in `title`. Needs the styles of
    heatmap.html. `scale` is `scale_of` the answers that are shown together.
    """
    from markupsafe import Markup

    spans = [
        Markup('<span class="{}" title="{}">{}</span>').format(
            class_of_piece(piece, scale), numbers_of(piece), piece.shown
        )
        for piece in pieces_of(answer)
    ]
    return Markup('<span class="tokens">{}</span>').format(Markup("").join(spans))


def class_of_piece(piece: Piece, scale: float) -> str:
    """A piece's CSS classes."""
    return class_of(level_of(piece.share, scale)) if piece.is_trained else "tok tok-fed"


def class_of(level: int) -> str:
    """A level's CSS classes."""
    if level == 0:
        return "tok"
    return f"tok tok-{'up' if level > 0 else 'down'}-{abs(level)}"


def token_text(answer: Mapping[str, Any], scale: float) -> Text:
    """The answer for a rich terminal, coloured alike; markup in the data stays text."""
    from rich.text import Text

    text = Text()
    for piece in pieces_of(answer):
        text.append(piece.shown, style=style_of_piece(piece, scale))
    return text


def style_of_piece(piece: Piece, scale: float) -> str:
    """A piece's rich style."""
    return style_of(level_of(piece.share, scale)) if piece.is_trained else "dim"


def style_of(level: int) -> str:
    """A level's rich style."""
    return "" if level == 0 else _STYLES[1 if level > 0 else -1][abs(level) - 1]


def _has_reference(answers: Iterable[Mapping[str, Any]]) -> bool:
    trained = (token for answer in answers for token in answer["tokens"] if _is_trained(token))
    return all(token.get("logratio") is not None for token in trained)


def _are_scores(answers: Iterable[Mapping[str, Any]]) -> bool:
    return any("change" in token for answer in answers for token in answer["tokens"])


def _ends(answers: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What the two colours mean."""
    if _are_scores(answers):
        return "lowered the score", "raised it"
    if _has_reference(answers):
        return "less likely than under the reference", "more likely"
    return "unlikely under the policy", "likely"


def _levels(answers: Sequence[Mapping[str, Any]]) -> range:
    """Those that can occur: log-probabilities are never above 0."""
    return range(-LEVELS, LEVELS + 1 if _are_scores(answers) or _has_reference(answers) else 1)


def legend(*answers: Mapping[str, Any]) -> Markup:
    """What the colours mean, as HTML, for answers that are shown together on the scale of the largest share."""
    from markupsafe import Markup

    low, high = _ends(answers)
    boxes = Markup("").join(
        Markup('<span class="{}">&nbsp;</span>').format(class_of(level)) for level in _levels(answers)
    )
    return Markup('<p class="tok-legend"><span>{}</span> <span>{}</span> <span>{}; {}</span></p>').format(
        low, boxes, high, _deepest(answers)
    )


def legend_text(*answers: Mapping[str, Any]) -> Text:
    """The same for a rich terminal."""
    from rich.text import Text

    low, high = _ends(answers)
    text = Text(f"{low} ", style="dim")
    for level in _levels(answers):
        text.append(f"{abs(level)}" if level else "\u00b7", style=style_of(level))
    text.append(f" {high}; {_deepest(answers)}", style="dim")
    return text


def _deepest(answers: Sequence[Mapping[str, Any]]) -> str:
    scale = scale_of(*answers)
    unit = "" if _are_scores(answers) else " nats"
    return f"the deepest colour is {scale:.3g}{unit}" if scale else "no token has a share"
