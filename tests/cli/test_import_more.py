"""What `import-config` says of values that change nothing, of two weights for one term, and of programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from likelier.cli.importing import TOOLS, import_config
from likelier.cli.importing.common import Draft
from likelier.utils.errors import ConfigError
from tests.cli.test_import_config import FILES, INFO, said

BASE = {"model_name_or_path": "m", "dataset_name": "d", "beta": 0.1}


def trl(tmp_path: Path, **options: Any) -> Draft:
    path = tmp_path / "source.yaml"
    path.write_text(yaml.safe_dump(BASE | options), encoding="utf-8")
    return import_config(str(path), "trl")


def listed(draft: Draft, kind: str) -> set[str]:
    return {key for note in draft.notes if note.kind == kind for key in note.keys}


@pytest.mark.parametrize("file", [file for file in FILES if file.parent != INFO], ids=lambda file: file.name)
def test_what_stands_under_unset_is_unset(file: Path) -> None:
    tool = {"llamafactory": "llama-factory"}.get(file.parent.name, file.parent.name)
    draft = import_config(str(file), tool if tool in TOOLS else None)
    for key in listed(draft, "off"):
        assert not draft.values[key] or draft.values[key] in ("no", "none"), key


@pytest.mark.parametrize(
    ("key", "value"), [("model_revision", "main"), ("ld_alpha", 1.0), ("bnb_4bit_quant_type", "nf4")]
)
def test_a_value_that_says_what_is_done_anyway_is_shown_as_such(tmp_path: Path, key: str, value: Any) -> None:
    draft = trl(tmp_path, **{key: value})
    assert key in listed(draft, "same") and key not in listed(draft, "off")
    assert f"{key}: {value}" in said(draft)


@pytest.mark.parametrize(
    ("weights", "rpo_alpha", "together"),
    [([1.0, 0.3], 0.5, 0.8), ([0.5, 0.25], 0.5, 1.5), ([2.0, 1.0], None, 0.5), (None, 0.5, 1.5)],
)
def test_two_weights_of_the_likelihood_are_one(
    tmp_path: Path, weights: list[float] | None, rpo_alpha: float | None, together: float
) -> None:
    draft = trl(tmp_path, loss_type=["sigmoid", "sft"], loss_weights=weights, rpo_alpha=rpo_alpha)
    assert draft.options["nll_weight"] == pytest.approx(together)
    assert ("their sum" in said(draft)) == (rpo_alpha is not None)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_the_removed_weight_is_against_a_loss_of_weight_one(tmp_path: Path, weight: float) -> None:
    draft = trl(tmp_path, loss_type=["sigmoid"], loss_weights=[weight], rpo_alpha=0.5)
    assert draft.options["nll_weight"] == pytest.approx(0.5 / weight)


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("train.py", "args.to_json_string()"),
        ("Train.IPYNB", "args.to_json_string()"),
        ("run.sh", "a line without the dashes"),
    ],
)
def test_a_program_is_answered_with_how_its_configuration_is_had(tmp_path: Path, name: str, mend: str) -> None:
    (tmp_path / name).write_text('args = DPOConfig(beta=0.1, output_dir="x")\n', encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        import_config(str(tmp_path / name))
    assert name in str(raised.value) and mend in str(raised.value)
