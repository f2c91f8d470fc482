"""Checkpoints with parts for pictures or sounds: their language part is what text-only data train."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from likelier import DPO, LoraOptions, PreferenceTrainer, TrainingOptions, load_policy
from likelier.advice.memory import planner_for
from likelier.advice.weights import count_weights
from likelier.models.architectures import other_parts
from likelier.models.generation import Decoding, write_answers
from likelier.scoring import attach_scorer
from likelier.scoring.plain import score_plain
from likelier.training.merge import merge_run
from likelier.utils.errors import ModelError
from tests.helpers.architectures import hard_pairs
from tests.helpers.multimodal import KINDS, save_parted
from tests.helpers.small_runs import save_tiny
from tests.helpers.support import chat_pairs, naive_logp, tiny_tokenizer

_OTHER = ("vision", "visual", "audio", "projector", "connector")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parted")
    return {kind: save_parted(root / kind, kind) for kind in KINDS}


def _train(model: Path, output: Path, *, resume: bool = False, **options: Any) -> PreferenceTrainer:
    how = {"batch_size": 4, "max_steps": 2, "learning_rate": 1e-3, "warmup": 0, "max_length": 128}
    trainer = PreferenceTrainer(
        load_policy(model),
        DPO(),
        chat_pairs(16),
        output_dir=output,
        options=TrainingOptions(**(how | options)),
        resume=resume,
    )
    trainer.train()
    return trainer


def _reloaded(folder: Path) -> tuple[Any, dict[str, Any]]:
    model, found = hf.AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    return model, {name: values for name, values in found.items() if values}


@pytest.mark.parametrize("kind", KINDS)
def test_the_language_part_is_scored_as_the_whole_model_does(folders: dict[str, Path], kind: str) -> None:
    policy = load_policy(folders[kind])
    group = hard_pairs()[0]
    expected = [naive_logp(policy.model, group, number) for number in range(2)]
    choice = attach_scorer(policy.model, groups=hard_pairs())
    assert choice.name == "shared-prefix", choice.reason
    from likelier.scoring import collate

    with torch.no_grad():
        for how in (None, score_plain):
            logps = policy.model(batch=collate([group]), how=how).logps
            assert logps.tolist() == pytest.approx(expected, abs=2e-4)
    written = write_answers(policy.model, policy.tokenizer, [[8, 9], [10]], Decoding(max_new_tokens=3))
    assert all(len(answer.ids) <= 3 for answer in written)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_lies_on_the_language_part_alone(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    policy = load_policy(folders[kind], lora=LoraOptions(lora_r=2))
    for name, weight in policy.model.named_parameters():
        if ".lora_" in name:
            assert not any(part in name for part in _OTHER)
            weight.data.normal_(0, 0.05)
    if kind in ("smolvlm", "qwen2-vl", "mistral3", "gemma4"):
        return
    policy.model.save_pretrained(tmp_path / "adapter")
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    merge_run(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    base = type(policy.model.get_base_model()).__name__
    assert hf.AutoConfig.from_pretrained(tmp_path / "merged").architectures == [base]
    if kind != "qwen2-audio":
        assert _reloaded(tmp_path / "merged")[1] == {}


def test_named_targets_leave_other_parts_alone_too(folders: dict[str, Path]) -> None:
    model = load_policy(folders["smolvlm"], lora=LoraOptions(lora_r=2, lora_targets="q_proj,v_proj")).model
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 8 and all(".text_model." in name for name in trained)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma3", "llava"])
def test_full_training_moves_the_language_part_and_saves_a_whole_model(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    trainer = _train(folders[kind], tmp_path / "run")
    assert "vision_tower, multi_modal_projector stay as they are" in trainer.policy.words
    before, after = load_file(folders[kind] / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    assert before.keys() == after.keys()  # as it was published
    for name in before:
        assert torch.equal(before[name], after[name]) == any(part in name for part in _OTHER), name
    model, found = _reloaded(tmp_path / "run")
    assert found == {} and model.config.architectures == hf.AutoConfig.from_pretrained(folders[kind]).architectures
    assert "use_cache" not in (tmp_path / "run" / "config.json").read_text().split('"text_config"')[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma3", "qwen2.5-vl", "experts"])
def test_a_resumed_run_finds_its_weights_under_their_published_names(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    model = folders.get(kind) or _experts(tmp_path / "experts")
    _train(model, tmp_path / "whole", max_steps=3, save_steps=2)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-3")
    (tmp_path / "cut" / "model.safetensors").unlink()
    _train(model, tmp_path / "cut", max_steps=3, save_steps=2, resume=True)
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one) and one.keys() == two.keys()


def _experts(folder: Path) -> Path:
    """A mixture of experts, which transformers holds as one tensor and saves as many."""
    sizes = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "eos_token_id": 2}
    hf.MixtralForCausalLM(hf.MixtralConfig(**sizes, **heads, max_position_embeddings=512)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_counts_what_is_trained(folders: dict[str, Path], kind: str) -> None:
    planner = planner_for(str(folders[kind]), method="dpo", dtype="float32", device="cpu", max_length=64)
    policy = load_policy(folders[kind])
    assert planner.weights.trained == policy.parameters["trainable"]
    assert planner.weights.count == policy.parameters["all"] > planner.weights.trained
    assert planner.plan(None, fit=False).peak > 0
    assert count_weights(planner.known.config, planner.asked.training).count == planner.weights.count


def test_an_ordinary_model_has_no_other_parts(tmp_path: Path) -> None:
    policy = load_policy(save_tiny(tmp_path / "model"))
    assert other_parts(policy.model) == [] and "stay as they are" not in policy.words
    adapter = load_policy(tmp_path / "model", lora=LoraOptions(lora_r=2)).model
    assert adapter.peft_config["default"].exclude_modules is None


_SIZES = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
_HEADS = {"num_attention_heads": 4, "max_position_embeddings": 64}
_T5 = {"vocab_size": 384, "d_model": 32, "d_ff": 48, "num_layers": 1, "num_heads": 4, "d_kv": 8}
_BART = {"vocab_size": 384, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5)), "is an encoder-decoder"),
        (lambda: hf.BartForConditionalGeneration(hf.BartConfig(**_BART)), "is an encoder-decoder"),
        (lambda: hf.BertForMaskedLM(hf.BertConfig(**_SIZES, **_HEADS)), "is a masked language model"),
        (
            lambda: hf.LlamaForSequenceClassification(
                hf.LlamaConfig(**_SIZES, **_HEADS, tie_word_embeddings=True, num_labels=1)
            ),
            "is a sequence classifier",
        ),
        (
            lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4)),
            "which writes no text",
        ),
    ],
)
def test_models_that_write_nothing_are_named_for_what_they_are(build: Any, words: str, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=words):
        load_policy(tmp_path / "model")
    with pytest.raises(ModelError, match=words):
        planner_for(str(tmp_path / "model"), method="dpo", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma3", "qwen2.5-vl", "smolvlm"])
def test_what_makes_input_of_pictures_is_kept_beside_the_weights(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    model = shutil.copytree(folders[kind], tmp_path / "model")
    (model / "preprocessor_config.json").write_text('{"size": 28}', encoding="utf-8")
    (tmp_path / "secret.json").write_text("{}", encoding="utf-8")
    (model / "processor_config.json").symlink_to(tmp_path / "secret.json")
    _train(model, tmp_path / "run")
    merge_run(str(tmp_path / "run"), str(tmp_path / "merged"))
    for folder in (tmp_path / "run", tmp_path / "merged"):
        assert (folder / "preprocessor_config.json").read_text(encoding="utf-8") == '{"size": 28}'
        assert not (folder / "processor_config.json").exists()
