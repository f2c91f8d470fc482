"""The keys under which references and their scores are stored: what an earlier version has stored is found again."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from likelier.scoring import attach_scorer
from likelier.scoring.reference.identity import identities
from tests.helpers.support import tiny_model


@pytest.mark.parametrize(("scorer", "version"), [("plain", "plain-2"), ("shared-prefix", "shared-prefix-1")])
@pytest.mark.parametrize("precision", ["torch.float64", "bfloat16-gathered"])
def test_a_reference_is_known_by_its_weights_its_precision_and_its_scorer(
    scorer: Any, version: str, precision: str
) -> None:
    model = tiny_model()
    attach_scorer(model, scorer=scorer)
    found = identities(model, adapter=False, precision=precision)
    key = hashlib.blake2b(f"{found['weights']}|{precision}|{version}".encode(), digest_size=16)
    assert found["identity"] == key.hexdigest() and len(found["weights"]) == 32
