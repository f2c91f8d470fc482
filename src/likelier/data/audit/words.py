"""A bag of words and a logistic regression on it: small enough that it needs no library besides numpy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_WORDS = re.compile(r"[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]+|[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
_FOLDS = 3
_STEPS = 50
_PRIOR_VARIANCE = 0.1
_RARE = 5
_LOOKED_AT = 1 << 18  # characters


@dataclass(frozen=True)
class WordTable:
    """Which words stand in which texts: text i has the features `features[offsets[i]:offsets[i + 1]]`, each once."""

    words: list[str]
    features: np.ndarray
    offsets: np.ndarray

    def first_words(self) -> WordTable:
        """The same with nothing but the word that a text begins with."""
        is_first = np.array([word.startswith("^") for word in self.words], dtype=bool)
        keep = is_first[self.features]
        kept = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        return WordTable(self.words, self.features[keep], kept)


def word_table(texts: Sequence[str]) -> WordTable:
    """Words in lower case that stand in at least 5 texts (in the first 2**18 characters of each: every word of a larger
    one would take many times its size), and the first word of each text as `^word`.
    """
    numbers: dict[str, int] = {}
    rows = []
    for text in texts:
        found = _WORDS.findall(text[:_LOOKED_AT].lower())
        own = {numbers.setdefault(word, len(numbers)) for word in found}
        own.update(numbers.setdefault(f"^{word}", len(numbers)) for word in found[:1])
        rows.append(np.fromiter(sorted(own), dtype=np.int64, count=len(own)))
    features = np.concatenate(rows) if rows else np.empty(0, np.int64)
    offsets = np.cumsum([0, *map(len, rows)])
    frequent = np.bincount(features, minlength=len(numbers)) >= _RARE
    renumbered = np.cumsum(frequent) - 1
    keep = frequent[features]
    kept = np.concatenate([[0], np.cumsum(keep)])[offsets]
    words = [word for word, is_kept in zip(numbers, frequent, strict=True) if is_kept]
    return WordTable(words, renumbered[features[keep]], kept)


def held_out_scores(
    table: WordTable, signs: np.ndarray, prompts: np.ndarray, *, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(scores (rows,), weights (words,)): each row's score by a model that did not see its prompt, and the mean model.

    Pairs take two texts a row, and the score is the first one's minus the second's; labels take one.
    """
    scores = np.zeros(len(signs))
    rows, models = _Rows.of(table, paired=paired), []
    for held in _folds(prompts):
        weights, constant = _fit(rows, signs, ~held)
        models.append(weights)
        scores[held] = (rows.scores(weights) + constant)[held]
    return scores, np.mean(models, axis=0)


def _folds(prompts: np.ndarray) -> Iterator[np.ndarray]:
    """Masks of the rows to hold out: whole prompts, dealt by a fixed shuffle."""
    _, number = np.unique(prompts, return_inverse=True)
    dealt = np.random.default_rng(0).permutation(number.max() + 1) % _FOLDS
    for fold in range(_FOLDS):
        yield dealt[number] == fold


@dataclass(frozen=True)
class _Rows:
    """A word table as the matrix of a regression: a row is a text, or with `paired` one text minus another."""

    table: WordTable
    row_of: np.ndarray
    side: np.ndarray
    paired: bool

    @staticmethod
    def of(table: WordTable, *, paired: bool) -> _Rows:
        texts, counts = 2 if paired else 1, np.diff(table.offsets)
        place = np.repeat(np.arange(len(counts)), counts)
        return _Rows(table, place // texts, np.where(place % texts == 0, 1.0, -1.0), paired)

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """(rows,): the matrix times weights (words,)."""
        sums = np.concatenate([[0.0], np.cumsum(weights[self.table.features])])
        texts = sums[self.table.offsets[1:]] - sums[self.table.offsets[:-1]]
        return texts[0::2] - texts[1::2] if self.paired else texts

    def back(self, values: np.ndarray) -> np.ndarray:
        """(words,): the transposed matrix times values (rows,)."""
        many = len(self.table.words)
        return np.bincount(self.table.features, weights=values[self.row_of] * self.side, minlength=many)


def _fit(rows: _Rows, signs: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression on the rows `seen`: mean of -log sigmoid(sign * score), a ridge for a normal prior on the
    weights, Nesterov's accelerated descent with the step that the largest eigenvalue allows.
    """
    count, free = seen.sum(), not rows.paired  # a difference of two texts needs no constant
    ridge = 1 / (_PRIOR_VARIANCE * count)
    rate = 1 / (0.3 * _largest_eigenvalue(rows, seen) + ridge + 0.25 * free)
    weights = before = np.zeros(len(rows.table.words) + 1)
    for step in range(_STEPS):
        ahead = weights + step / (step + 3) * (weights - before)
        scores = rows.scores(ahead[:-1]) + ahead[-1]
        pull = np.where(seen, -signs / (1 + np.exp(np.clip(signs * scores, -30, 30))), 0.0) / count
        slope = np.append(rows.back(pull) + ridge * ahead[:-1], free * pull.sum())
        weights, before = ahead - rate * slope, weights
    return weights[:-1], float(weights[-1])


def _largest_eigenvalue(rows: _Rows, seen: np.ndarray) -> float:
    """Of the matrix of second moments of the rows `seen`, by power iteration.

    It begins at random: a vector of ones gives 0 where both answers of every pair have as many words.
    """
    size, vector = 1.0, np.random.default_rng(0).normal(size=len(rows.table.words))
    for _ in range(16):
        vector = rows.back(np.where(seen, rows.scores(vector), 0.0)) / seen.sum()
        size = float(np.linalg.norm(vector))
        vector = vector / max(size, 1e-12)
    return size
