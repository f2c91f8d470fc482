"""The reference: the store, and the check that stops a run with a wrong one."""

import multiprocessing
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from likelier import DPO, IPO, KTO, PreferenceTrainer, SimPO, load_policy
from likelier.models.policy import Policy
from likelier.runs.folder import RunFolder
from likelier.scoring import attach_scorer
from likelier.scoring.reference import Reference, ReferenceStore, base_reference, start_reference
from likelier.scoring.reference.identity import adapter_has_effect, identities
from likelier.scoring.reference.store import answer_key, attach_reference
from likelier.utils.errors import ConfigError, LikelierWarning, WrongReferenceError
from tests.helpers.support import chat_pairs, labelled_rows, logged, lora_policy, tiny_model, tiny_policy


def _identity(model: nn.Module, *, adapter: bool, precision: str) -> str:
    attach_scorer(model, scorer="plain")
    return identities(model, adapter=adapter, precision=precision)["identity"]


def _trainer(folder: Path, policy: Policy | None = None, **options: object) -> PreferenceTrainer:
    settings = {"batch_size": 8, "max_steps": 2, "learning_rate": 1e-3, **options}
    return PreferenceTrainer(policy or tiny_policy(), DPO(), chat_pairs(16), output_dir=folder, **settings)


def _trained_adapter() -> Policy:
    policy = lora_policy()
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return policy


# --- what the reference is ---


@pytest.mark.slow
def test_the_card_says_the_reference_in_words(tmp_path: Path) -> None:
    for name, policy, words in (
        ("full", tiny_policy(), "the policy itself as it was loaded, scored before the first step"),
        ("lora", lora_policy(), "the base model, adapter switched off (the new adapter starts without effect)"),
        ("adapter", _trained_adapter(), "the base model + a frozen copy of the adapter as it was loaded"),
    ):
        _trainer(tmp_path / name, policy).train()
        card = RunFolder(tmp_path / name).read_card()["reference"]
        assert card["words"] == words
        assert card["step0_loss"] == pytest.approx(card["step0_loss_expected"]) == pytest.approx(np.log(2))


def test_identity_tells_weights_adapter_and_precision_apart() -> None:
    model = tiny_model()
    plain = _identity(model, adapter=False, precision="float64")
    assert plain == _identity(tiny_model(), adapter=False, precision="float64")
    assert plain != _identity(tiny_model(1), adapter=False, precision="float64")
    assert plain != _identity(model, adapter=False, precision="bfloat16-autocast")
    assert plain != _identity(tiny_model(rope_theta=5.0), adapter=False, precision="float64")
    adapted = _trained_adapter().model
    assert plain == _identity(adapted, adapter=False, precision="float64")
    assert plain != _identity(adapted, adapter=True, precision="float64")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-9
    assert plain != _identity(model, adapter=False, precision="float64")


def test_a_fresh_adapter_has_no_effect_and_a_trained_one_has() -> None:
    assert not adapter_has_effect(lora_policy().model)
    assert adapter_has_effect(_trained_adapter().model)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["stored", "live"])
def test_going_on_from_an_adapter_keeps_that_adapter_as_reference(tmp_path: Path, mode: str) -> None:
    """The trap: switching the adapter off would also switch off what was trained before."""
    policy = _trained_adapter()
    trainer = _trainer(tmp_path / "run", policy, reference_scores=mode)
    trainer.train()
    card = RunFolder(tmp_path / "run").read_card()["reference"]
    assert card["equals_policy"] and card["step0_loss"] == pytest.approx(np.log(2))
    saved = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert "adapter_model.safetensors" in saved and "reference" not in saved


@pytest.mark.slow
def test_base_as_reference_of_a_trained_adapter_is_not_claimed_to_be_the_policy(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", _trained_adapter(), reference="base")
    trainer.train()
    card = RunFolder(tmp_path / "run").read_card()["reference"]
    assert not card["equals_policy"] and "step0_loss" not in card
    assert abs(trainer.folder.read_metrics()[0]["rewards/chosen"]) > 1e-3


@pytest.mark.slow
def test_another_model_as_reference_is_released_after_scoring(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", reference=replace(tiny_policy(seed=5), name="elsewhere"))
    trainer.train()
    card = RunFolder(tmp_path / "run").read_card()["reference"]
    assert card["words"] == "the model elsewhere" and not card["equals_policy"]
    with pytest.raises(RuntimeError, match="released"):
        trainer.reference.use()  # type: ignore[union-attr]


def test_base_without_an_adapter_is_refused() -> None:
    with pytest.raises(WrongReferenceError, match="this model has no adapter"):
        base_reference(tiny_model(), precision="float64")


@pytest.mark.slow
def test_a_method_without_reference_loads_none_and_refuses_one(tmp_path: Path) -> None:
    trainer = PreferenceTrainer(tiny_policy(), SimPO(), chat_pairs(8), output_dir=tmp_path / "a", max_steps=1, warmup=0)
    trainer.train()
    assert RunFolder(tmp_path / "a").read_card()["reference"] == {"words": "none: this method needs no reference"}
    assert not (tmp_path / "cache" / "reference").exists()
    with pytest.raises(ConfigError, match="simpo uses no reference; drop reference"):
        PreferenceTrainer(tiny_policy(), SimPO(), chat_pairs(8), output_dir=tmp_path / "b", reference=tiny_policy())


# --- the step-0 check stops a wrong one ---


def test_a_policy_changed_after_the_reference_was_named_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy()
    trainer = _trainer(tmp_path / "run", policy)

    def stale(model: torch.nn.Module, **options: object) -> Reference:
        reference = start_reference(model, **options)  # type: ignore[arg-type]
        frozen = tiny_policy(seed=0)
        with torch.no_grad():
            frozen.model.model.layers[0].mlp.up_proj.weight.mul_(1.05)
        from contextlib import nullcontext

        from likelier.scoring import attach_scorer

        attach_scorer(frozen.model)
        return replace(reference, use=lambda: nullcontext(frozen.model))

    monkeypatch.setattr("likelier.training.reference.start_reference", stale)
    with pytest.raises(WrongReferenceError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "the policy does not start as its reference" in message and "instead of 0.693147" in message
    assert "Likely causes" in message and "tiny.jsonl:" in message
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_adapter_trap_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If somebody claims 'adapter off' for an adapter that was trained, the run stops and says what to do."""
    trainer = _trainer(tmp_path / "run", _trained_adapter())
    monkeypatch.setattr(
        "likelier.training.reference.start_reference",
        lambda model, **options: replace(base_reference(model, precision="float64"), equals_policy=True),
    )
    with pytest.raises(WrongReferenceError, match="adapter that was already trained"):
        trainer.train()


@pytest.mark.slow
def test_edited_store_is_stopped(tmp_path: Path) -> None:
    _trainer(tmp_path / "first").train()
    store = tmp_path / "cache" / "reference"
    identity = next(store.iterdir()).name
    scores = ReferenceStore(store, identity)
    trainer = _trainer(tmp_path / "second")
    for group in trainer.train_groups:
        for answer in group.answers:
            key = answer_key(group.prompt, answer)
            value = scores.find([key])[0][0]
            scores.add(key, float(value) + 0.5, len(answer))
    for segment in (store / identity).glob("*.scores"):
        segment.unlink()
    scores.flush()
    with pytest.raises(WrongReferenceError, match=r"reference scores from the store .* are not the reference's"):
        trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("objective", [DPO(), IPO(tau=0.1), KTO()], ids=lambda objective: objective.method)
def test_the_first_logged_step_has_the_known_loss(tmp_path: Path, objective: object) -> None:
    data = labelled_rows(16) if objective.method == "kto" else chat_pairs(16)  # type: ignore[attr-defined]
    trainer = PreferenceTrainer(
        tiny_policy(), objective, data, output_dir=tmp_path / "run", batch_size=8, max_steps=1, warmup=0
    )  # type: ignore[arg-type]
    trainer.train()
    known = {"dpo": np.log(2), "ipo": 25.0, "kto": 0.5}[objective.method]  # type: ignore[attr-defined]
    assert trainer.folder.read_metrics()[0]["loss"] == pytest.approx(known, abs=1e-9)


# --- reference scores in the data file ---


def _with_given(trainer: PreferenceTrainer, shift: float) -> list:
    from likelier.data.records import Pair, TokenIds

    reference = start_reference(trainer.policy.model, precision="float64")
    groups = attach_reference(trainer.train_groups, reference, trainer._scoring()).groups
    return [
        Pair(
            TokenIds(tuple(group.prompt.tolist())),
            TokenIds(tuple(group.answers[0].tolist())),
            TokenIds(tuple(group.answers[1].tolist())),
            group.source,
            tuple(logp + shift for logp in group.ref_logps),  # type: ignore[union-attr, arg-type]
        )
        for group in groups
    ]


@pytest.mark.slow
def test_given_reference_scores_are_checked_on_a_sample(tmp_path: Path) -> None:
    first = _trainer(tmp_path / "a")
    given = _with_given(first, 0.0)
    trainer = PreferenceTrainer(
        tiny_policy(), DPO(), given, output_dir=tmp_path / "b", batch_size=8, max_steps=1, warmup=0
    )
    trainer.train()
    assert "taken from the data file" in RunFolder(tmp_path / "b").read_card()["reference"]["scores"]
    wrong = PreferenceTrainer(
        tiny_policy(), DPO(), _with_given(first, 3.0), output_dir=tmp_path / "c", batch_size=8, max_steps=1, warmup=0
    )
    with pytest.raises(WrongReferenceError, match="differ by"):
        wrong.train()


# --- the store ---


def _keys(count: int, salt: int = 0) -> list[bytes]:
    return [
        answer_key(np.array([salt, number], dtype=np.int32), np.array([1], dtype=np.int32)) for number in range(count)
    ]


def test_store_finds_what_was_stored_and_nothing_else(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, "model")
    keys = _keys(10_000)
    for number, key in enumerate(keys):
        store.add(key, -float(number) / 7, 1)
    store.flush()
    again = ReferenceStore(tmp_path, "model")
    values, found = again.find(keys + _keys(100, salt=1))
    assert found.tolist() == [True] * 10_000 + [False] * 100
    assert values[:10_000].tolist() == [-number / 7 for number in range(10_000)]
    assert len(ReferenceStore(tmp_path, "another")) == 0


def test_prompt_and_answer_are_told_apart() -> None:
    one, two, three = (np.array(ids, dtype=np.int32) for ids in ([1, 2], [3], [2, 3]))
    assert answer_key(one, two) != answer_key(one[:1], three)


def test_a_torn_segment_is_passed_over(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, "model")
    for key in _keys(5):
        store.add(key, -1.0, 1)
    store.flush()
    segment = next((tmp_path / "model").glob("*.scores"))
    segment.write_bytes(segment.read_bytes()[:-9])
    with pytest.warns(LikelierWarning, match="is damaged"):
        assert len(ReferenceStore(tmp_path, "model")) == 0


def test_an_unfinished_segment_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".abc.scores.123.tmp").write_bytes(b"half")
    assert len(ReferenceStore(tmp_path, "model")) == 0


def _write(folder: Path, salt: int) -> None:
    store = ReferenceStore(folder, "model")
    for key in _keys(3000, salt):
        store.add(key, -float(salt), 1)
    store.flush()


@pytest.mark.slow
def test_several_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path, salt)) for salt in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    store = ReferenceStore(tmp_path, "model")
    for salt in (1, 2):
        values, found = store.find(_keys(3000, salt))
        assert found.all() and (values == -salt).all()


@pytest.mark.slow
def test_a_changed_row_is_scored_anew_and_no_other(tmp_path: Path) -> None:
    _trainer(tmp_path / "first").train()
    changed = chat_pairs(16)
    changed[3] = replace(changed[3], chosen=chat_pairs(1, seed=9)[0].chosen)
    trainer = PreferenceTrainer(tiny_policy(), IPO(), changed, output_dir=tmp_path / "second", max_steps=1, warmup=0)
    trainer.train()
    assert RunFolder(tmp_path / "second").read_card()["reference"]["scores"] == "1 computed, 31 found in the store"


@pytest.mark.slow
def test_the_store_serves_a_loaded_model_too(tmp_path: Path) -> None:
    """Saved and loaded again, the same weights are the same reference."""
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(tmp_path / "base")
    policy.tokenizer.save_pretrained(tmp_path / "base")
    _trainer(tmp_path / "first", policy).train()
    _trainer(tmp_path / "second", load_policy(tmp_path / "base")).train()
    assert RunFolder(tmp_path / "second").read_card()["reference"]["scores"].startswith("0 computed")


def test_writing_sorts_nothing_until_the_store_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting everything at each segment made twenty million scores take hours."""
    store, sorted_rows = ReferenceStore(tmp_path, "model"), []
    argsort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda rows, **how: sorted_rows.append(len(rows)) or argsort(rows, **how))
    keys = _keys(3 * 4096)
    for number, key in enumerate(keys):
        store.add(key, -float(number), 1)
    assert len(list((tmp_path / "model").glob("*.scores"))) == 3 and len(store) == 3 * 4096
    assert sorted_rows == []
    values, found = store.find(keys)
    assert found.all() and values.tolist() == [-float(number) for number in range(len(keys))]
    assert sorted_rows == [len(keys), len(keys)]  # what was asked for, and once all segments


def test_of_a_key_that_was_added_twice_the_first_score_counts(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, "model")
    for value in (-1.0, -2.0):
        for key in _keys(4):
            store.add(key, value, 1)
        store.flush()
        assert store.find(_keys(4))[0].tolist() == [-1.0] * 4
    assert len(store) == 8


def test_what_is_not_flushed_is_not_found_yet(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, "model")
    store.add(_keys(1)[0], -1.0, 1)
    assert not store.find(_keys(1))[1].any() and len(store) == 0
    store.flush()
    assert store.find(_keys(1))[1].all()


@pytest.mark.slow
def test_a_million_rows_are_found(tmp_path: Path) -> None:
    """Written as one segment by hand, so that the test takes seconds."""
    keys = np.frombuffer(np.random.default_rng(0).bytes(16_000_000), dtype="S16")
    rows = np.zeros(len(keys), dtype=[("key", "S16"), ("logp", "<f8"), ("length", "<u4")])
    rows["key"] = keys
    body = rows.tobytes()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "big.scores").write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
    store = ReferenceStore(tmp_path, "model")
    _, found = store.find(keys.tolist())
    assert len(store) == 1_000_000 and found.all()


# --- holes that a review found ---


def test_given_scores_of_held_out_rows_are_checked_too(tmp_path: Path) -> None:
    first = _trainer(tmp_path / "a")
    right, wrong = _with_given(first, 0.0), _with_given(first, 3.0)
    trainer = PreferenceTrainer(
        tiny_policy(), DPO(), right, eval_data=wrong, output_dir=tmp_path / "b", batch_size=8, max_steps=1, warmup=0
    )
    with pytest.raises(WrongReferenceError, match="reference scores from the data file"):
        trainer.train()


@pytest.mark.slow
def test_given_scores_of_a_cut_row_are_not_believed(tmp_path: Path) -> None:
    first = _trainer(tmp_path / "a")
    trainer = PreferenceTrainer(
        tiny_policy(),
        DPO(),
        _with_given(first, 0.0),
        output_dir=tmp_path / "b",
        batch_size=8,
        max_steps=1,
        warmup=0,
        max_length=30,
        truncation="cut-answer-right",
    )
    assert trainer.run.data.train.cut_answers > 0
    trainer.train()
    assert "computed" in RunFolder(tmp_path / "b").read_card()["reference"]["scores"]


def test_a_reference_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = tiny_policy(seed=5)
    other.tokenizer.add_tokens(["something else"])
    with pytest.raises(WrongReferenceError, match="another vocabulary"):
        _trainer(tmp_path / "run", reference=other).train()


@pytest.mark.slow
def test_a_second_train_is_refused(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run")
    trainer.train()
    with pytest.raises(ConfigError, match="has trained already"):
        trainer.train()


def test_saved_buffers_belong_to_the_identity() -> None:
    model, other = tiny_model(), tiny_model()
    for one, value in ((model, 1.0), (other, 2.0)):
        one.model.register_buffer("bias", torch.full((3,), value))
    identities = {_identity(one, adapter=False, precision="float64") for one in (model, other)}
    assert len(identities) == 2


def test_a_score_that_is_not_finite_is_never_stored(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run")
    with torch.no_grad():
        trainer.policy.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(WrongReferenceError, match="not finite"):
        trainer.train()
    assert not list((tmp_path / "cache").rglob("*.scores"))


@pytest.mark.slow
def test_rows_that_no_step_reaches_are_not_scored(tmp_path: Path) -> None:
    """And the steps that are made are those of a long run: a limit on steps changes no order."""

    def run(name: str, **options: Any) -> PreferenceTrainer:
        trainer = PreferenceTrainer(
            tiny_policy(),
            DPO(),
            chat_pairs(40),
            output_dir=tmp_path / name,
            batch_size=4,
            learning_rate=1e-3,
            scheduler="constant",
            **options,
        )
        trainer.train()
        return trainer

    short, long = run("short", max_steps=2), run("long", epochs=1)
    assert short.folder.read_card()["reference"]["scores"] == "16 computed, 0 found in the store"
    assert long.folder.read_card()["reference"]["scores"] == "64 computed, 16 found in the store"
    assert sum(group.ref_logps is not None for group in short.train_groups) == 8
    assert [group.source for group in short.train_groups] == [group.source for group in long.train_groups]
    for first, second in zip(logged(short), logged(long)[:2], strict=True):
        assert first == second
