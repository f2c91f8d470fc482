"""What the words in columns' names say of the columns, in English and German: which may be asked, answered, judged."""

from __future__ import annotations

import re


def _each(words: str) -> tuple[str, ...]:
    return tuple(words.split())


PROMPT = _each(
    "prompt instruction question query request task input problem post context user anfrage frage aufgabe eingabe "
    "anweisung history title titel text source quelle"
)
ANSWER = _each(
    "completion response answer output reply generation prediction candidate text antwort ausgabe erwiderung "
    "completions responses answers outputs replies generations predictions candidates texts antworten ausgaben"
)
WINNER = _each(
    "winner preference preferred better best verdict judgement judgment choice chosen selected label vote overall "
    "result gewinner sieger präferenz bevorzugt besser wahl urteil"
)
LABEL = _each(
    "label labels rating ratings score scores thumb thumbs feedback good liked upvoted helpful acceptable correct "
    "quality stars grade vote bewertung note daumen sterne urteil gut"
)
SCORES = _each(
    "score scores rating ratings reward rewards rank ranks grade grades stars bewertung bewertungen note noten"
)
RANKS = {"rank", "ranks", "rang", "ränge"}
VOTES = {"vote", "votes", "count", "counts", "stimmen"}

# What stands before what is asked about it: both are the prompt.
BEFORE = {
    "instruction": "input",
    "context": "question",
    "passage": "question",
    "document": "question",
    "title": "body",
    "anweisung": "eingabe",
    "kontext": "frage",
    "titel": "text",
}

_CONTRASTS = (
    "chosen/rejected good/bad better/worse best/worst preferred/dispreferred preferred/rejected accepted/rejected "
    "accept/reject positive/negative pos/neg win/lose win/loss winner/loser winning/losing correct/incorrect "
    "correct/wrong right/wrong liked/disliked upvoted/downvoted up/down w/l gut/schlecht gute/schlechte "
    "guter/schlechter gutes/schlechtes besser/schlechter bessere/schlechtere beste/schlechteste bevorzugt/abgelehnt "
    "bevorzugte/abgelehnte gewählt/abgelehnt gewählte/abgelehnte angenommen/abgelehnt richtig/falsch richtige/falsche "
    "positiv/negativ"
)
CONTRASTS = tuple(tuple(pair.split("/")) for pair in _each(_CONTRASTS))

_SIDES = (
    "a b c d e f g h/1 2 3 4 5 6 7 8 9/0 1 2 3 4 5 6 7 8/first second third fourth/left right/one two three four/x y z/"
    "links rechts/eins zwei drei vier/erste zweite dritte vierte"
)
SIDES = tuple(map(_each, _SIDES.split("/")))


def words_of(name: str) -> tuple[str, ...]:
    """The words and numbers of a column's name, in lower case: `responseA_1` is response, a, 1."""
    apart = re.sub(r"(?<=[^\W\d_A-ZÄÖÜ])(?=[A-ZÄÖÜ])", " ", name)
    return tuple(re.findall(r"[^\W\d_]+|\d+", apart.lower()))
