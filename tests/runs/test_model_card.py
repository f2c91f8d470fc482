"""The README.md of a run: what it says, what it must not give away, and what cannot break out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from likelier.runs.card import RunCard, checked_card
from likelier.runs.folder import RunFolder
from likelier.runs.model_card import escaped, model_card, write_model_card
from likelier.utils.errors import RunFolderError
from likelier.utils.files import base_names
from tests.helpers.small_runs import SmallRuns, read_card


def front_matter(page: str) -> dict[str, Any]:
    """As YAML has it, which the hub's own reader has to find as well."""
    assert page.startswith("---\n")
    found = yaml.safe_load(page.split("---\n", 2)[1])
    assert ModelCard(page).data.to_dict() == found
    return found


def test_an_adapters_page_says_everything(runs: SmallRuns) -> None:
    write_model_card(RunFolder(runs.adapter))
    page = (runs.adapter / "README.md").read_text(encoding="utf-8")
    card = read_card(runs.adapter)
    assert front_matter(page) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["likelier", "preference-optimization", "dpo", "lora"],
    }
    assert "# adapter\n\nA LoRA adapter for tiny, by dpo with likelier." in page
    for part in ("| beta | 0.3 |", "pairs.jsonl", "| learning rate | 0.05 (given) |", card["data"]["hash"]):
        assert part in page
    for part in (card["reference"]["weights"], "the loss was 0.693147", "AutoPeftModelForCausalLM", "likelier merge"):
        assert part in page
    assert f"On {card['data']['eval']['groups']} held-out rows" in page
    end = card["evaluation_end"]
    low, high = end["eval_rewards/accuracies_low"], end["eval_rewards/accuracies_high"]
    assert f"{end['eval_rewards/accuracies']:.1%} [{low:.1%}, {high:.1%}] |" in page
    assert "| transformers | " in page and "| likelier | " in page


def test_a_whole_models_page_loads_it_with_transformers(runs: SmallRuns) -> None:
    page = model_card(RunFolder(runs.whole).card(), "whole")
    assert front_matter(page)["library_name"] == "transformers" and "lora" not in front_matter(page)["tags"]
    assert "AutoModelForCausalLM" in page and "AutoPeft" not in page and "## Evaluation" not in page


def test_no_local_path_is_told(runs: SmallRuns) -> None:
    for run in (runs.adapter, runs.whole, runs.simpo):
        page = model_card(RunFolder(run).card(), run.name)
        assert str(run.parent) not in page and "/" + run.parent.name not in page


def test_a_hub_id_is_named_as_the_base(runs: SmallRuns) -> None:
    card = read_card(runs.adapter)
    for model, base in (("owner/name-1.5B", "owner/name-1.5B"), ("demo", "HuggingFaceTB/SmolLM2-135M-Instruct")):
        meta = front_matter(model_card(RunCard.of(card | {"run": {"model": model, "data": "owner/prefs"}}), "run"))
        assert (meta["base_model"], meta["base_model_relation"]) == (base, "adapter")
    assert "base_model" not in front_matter(model_card(RunCard.of(card | {"run": {"model": "/models/x"}}), "run"))


def test_untrusted_text_is_no_markup() -> None:
    bad = "<script>x</script>|`a`\n# head [l](http://e.vil) *b* \x1b[31m $x$ _u_"
    page = model_card(
        RunCard.of(
            {
                "method": bad,
                "run": {"data": bad, "model": bad},
                "error": bad,
                "reference": {"words": bad},
                "status": bad,
            }
        ),
        bad,
    )
    body = page.split("---\n", 2)[2]
    assert "<script>" not in body and "\x1b" not in page and "\n# head" not in body and "http://" not in body
    assert "](" not in body.replace("\\](", "")
    assert escaped(bad).startswith(r"&lt;script&gt;x&lt;/script&gt;\|\`a\` \# head \[l\]")
    assert front_matter(page)["tags"][2] == bad


def test_stages_data_sets_and_left_out_rows_are_listed() -> None:
    card = {
        "status": "done",
        "stages": [
            {"name": "sft", "method": "sft", "folder": "1-sft", "status": "done", "reference": {"words": "none"}},
            {"name": "dpo", "method": "dpo", "folder": "2-dpo", "status": "failed"},
        ],
        "run": {"data": [{"path": "/home/me/a.jsonl", "weight": 0.5}, {"path": "b.jsonl", "weight": 1.0}]},
        "unusable_rows": {"empty-answer": 2},
        "data": {"train": {"groups": 7, "unusable": 1}, "max_length": 64, "median_answer_length": 5.0, "hash": "ab"},
    }
    page = model_card(checked_card(card, "run.json"), "staged")
    assert "1. sft (sft), in 1-sft: done; reference: none" in page and "2. dpo (dpo), in 2-dpo: failed" in page
    assert "training: a.jsonl (weight 0.5), b.jsonl" in page and "left out before: empty-answer 2" in page
    assert "training rows used: 7; left out after tokenization: 1" in page


def test_the_least_card_gives_a_page_and_none_gives_an_error(tmp_path: Path) -> None:
    assert model_card(RunCard(), "x").count("# ") >= 2
    with pytest.raises(RunFolderError, match=r"run\.json cannot be read"):
        write_model_card(RunFolder(tmp_path))


def test_paths_are_cut_down_wherever_they_stand() -> None:
    before = {
        "model": "/home/me and you/my runs/a",
        "words": "the model /home/me and you/my runs/a, a frozen copy",
        "policy": "/x/adapter (an adapter on /y/z/base)",
        "list": [1, None, "~/secret/b", "C:\\Users\\me\\c.json", "/d/e.jsonl:3"],
        "kept": "and/or 3 / 4 of https://host/path owner/name",
    }
    assert base_names(before) == {
        "model": "a",
        "words": "the model a, a frozen copy",
        "policy": "adapter (an adapter on base)",
        "list": [1, None, "b", "c.json", "e.jsonl:3"],
        "kept": before["kept"],
    }


def test_a_run_that_writes_its_own_answers_tells_what_they_earn() -> None:
    before = {"eval_reward": 0.25, "eval_reward_low": 0.125, "eval_reward_high": 0.375, "eval_best_of_n": 0.75}
    content = {
        "status": "done",
        "method": "grpo",
        "data": {"hash": "ab", "train": {"prompts": 18}, "eval": {"prompts": 6}},
        "evaluation_start": before,
        "evaluation_end": before | {"eval_reward": 0.5},
    }
    text = model_card(checked_card(content, "run.json"), "run")
    assert "training rows used: 18" in text and "On 6 held-out rows" in text and "None" not in text
    assert "| reward of its own answers | 0.2500 [0.1250, 0.3750] | 0.5000 [0.1250, 0.3750] |" in text
    assert "| the best of several answers to each prompt | 0.7500 | 0.7500 |" in text
