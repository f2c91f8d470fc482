"""Chat: both answers, their rewards as `likelier score` counts them, and nothing that harms a terminal."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import GenerationConfig

from likelier.cli import conversation as chatting
from likelier.cli import main as cli
from likelier.cli.conversation import Answer, Pairing, pair_up, show
from likelier.data.records import Labelled, Message, Source
from likelier.data.tokenize import tokenize_records
from likelier.models.generation import Decoding, Written, end_tokens, prompt_ids, write_answers
from likelier.utils.errors import ConfigError
from tests.helpers.small_runs import SmallRuns, save_tiny, staged, write_rows
from tests.helpers.support import tiny_policy

ASK = (Message("user", "the cat sat on"),)
SHORT = Decoding(max_new_tokens=6)
NASTY = "\x1b[31mred\x1b]0;title\x07\r\nnext\u202e \x9b2J [bold]kept[/bold]"


def written(tokenizer: Any, text: str, *, ended: bool = True) -> Written:
    end = [tokenizer.eos_token_id] if ended else []
    return Written([*tokenizer(text, add_special_tokens=False)["input_ids"], *end], text, ended)


def score(run: Path, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What `likelier score` says of one pair."""
    data, output = write_rows(folder / "asked.jsonl", [row]), folder / "scores.jsonl"
    assert cli.main(["score", "--model", str(run), "--data", str(data), "--output", str(output)]) == 0
    return json.loads(output.read_text(encoding="utf-8"))


# --- rewards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "beta"), [("adapter", 0.3), ("whole", 0.1)])
def test_rewards_are_those_of_score_on_the_same_answers(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beta: float
) -> None:
    run = getattr(runs, name)
    pairing = pair_up(str(run))
    texts = iter(["yes it was very good", "no the dog ran"])
    monkeypatch.setattr(chatting, "write_answers", lambda *args: [written(pairing.policy.tokenizer, next(texts))])
    answers = pairing.answers(ASK)
    conversation = {"prompt": "the cat sat on", "chosen": "yes it was very good", "rejected": "no the dog ran"}
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    row = score(run, {side: [{"role": roles[side], "content": text}] for side, text in conversation.items()}, tmp_path)
    assert pairing.scale == beta
    for side, answer in zip(("chosen", "rejected"), answers, strict=True):
        assert answer.scores["length"] == row[side]["length"]
        assert answer.scores["reward"] == pytest.approx(row[side]["reward"], abs=1e-6)
        assert abs(answer.scores["reward"]) > 1e-4


def test_an_answer_that_was_cut_is_scored_as_it_was_written(runs: SmallRuns, tmp_path: Path) -> None:
    pairing = pair_up(str(runs.adapter), decoding=SHORT)
    answers = pairing.answers(ASK)
    ids = {"prompt_ids": prompt_ids(pairing.policy, ASK)}
    ids |= {f"{side}_ids": answer.written.ids for side, answer in zip(("chosen", "rejected"), answers, strict=True)}
    assert not any(answer.written.is_whole for answer in answers) and ids["chosen_ids"] != ids["rejected_ids"]
    row = score(runs.adapter, ids, tmp_path)
    for side, answer in zip(("chosen", "rejected"), answers, strict=True):
        assert answer.scores["length"] == len(answer.written.ids) == 6
        assert answer.scores["reward"] == pytest.approx(row[side]["reward"], abs=1e-6)


def test_the_scored_tokens_are_those_of_training() -> None:
    policy = tiny_policy(dtype=torch.float32)
    answer = written(policy.tokenizer, "yes it was")
    record = Labelled(ASK, (Message("assistant", "yes it was"),), True, Source("rows", 1))
    group = tokenize_records([record], policy.tokenizer, max_length=64).groups[0]
    ids = prompt_ids(policy, ASK)
    assert ids == group.prompt.tolist()
    assert chatting._scored_ids(policy, ASK, ids, answer) == group.answers[0].tolist()
    cut, other = Written(answer.ids[:-1], "yes it was", False), Written([3, 4, 5, 2], "yes it was", True)
    assert chatting._scored_ids(policy, ASK, ids, cut) == cut.ids
    assert chatting._scored_ids(policy, ASK, ids, other) == other.ids


# --- what is printed -----------------------------------------------------------------------------------------------


def run_chat(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["chat", str(run), "--max-new-tokens", "6", *words])
    return code, *capsys.readouterr()


def test_prompts_are_answered_one_under_the_other(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_chat(capsys, runs.adapter, "--prompt", "the cat", "--prompt", "the dog ran")
    assert code == 0
    for part in ("> the cat\n", "> the dog ran\n", f"policy: {runs.adapter}", "reference: the base model, adapter"):
        assert part in out
    assert out.count("reward ") == 4 and out.count("= 0.3 x ") == 4 and "each); cut off here" in out
    assert "one model is in memory" in err and "rewards: 0.3 x log-ratio (the run)" in err and "greedy" in err
    assert run_chat(capsys, runs.adapter, "--prompt", "the cat", "--prompt", "the dog ran")[1] == out


def test_a_whole_model_is_compared_with_the_one_it_began_as(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_chat(capsys, runs.whole, "--prompt", "the cat")
    assert code == 0 and f"reference: the model {runs.model}" in out and "two models are in memory" in err
    root = staged(tmp_path / "staged", ("dpo", runs.whole))
    assert f"policy: {root / '1-dpo'}" in run_chat(capsys, root, "--prompt", "the cat")[1]


def test_another_reference_can_be_named(runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = save_tiny(tmp_path / "other", seed=3)
    code, out, _ = run_chat(capsys, runs.whole, "--prompt", "the cat", "--reference", str(other))
    assert code == 0 and f"reference: the model {other}" in out


def test_a_method_without_reference_shows_mean_log_probabilities(
    runs: SmallRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_chat(capsys, runs.simpo, "--prompt", "the cat")
    assert code == 0 and "reward" not in out and f"beginning: the model {runs.model}" in out
    assert out.count("nats a token under the policy") == 2 and "no reference, so there are no rewards" in err


def test_a_model_that_is_no_run_needs_a_reference(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_chat(capsys, runs.model, "--prompt", "the cat")
    assert code == 2 and "give --reference" in err
    code, out, err = run_chat(capsys, runs.model, "--prompt", "the cat", "--reference", str(runs.whole))
    assert code == 0 and "rewards: 0.1 x log-ratio (by default)" in err and "reward" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--prompt", "  "], "the prompt is empty"),
        (["--prompt", "a \udcff b"], "not UTF-8"),
        (["--prompt", "the cat " * 5000], "the model's context 4096"),
        (["--prompt", "the", "--temperature", "-1"], "temperature=-1 is out of range"),
        (["--prompt", "the", "--reference", "base"], "adapter"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    runs: SmallRuns, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    code, _, err = run_chat(capsys, runs.whole, *words)
    assert code == 2 and expected in err and "Traceback" not in err


def two_answers(text: str) -> list[Answer]:
    scores = {"reward": 1.0, "logratio": 10.0, "length": 5, "logratio_per_token": 2.0}
    return [Answer(f"{who}: \x1b[2J", Written([1], text, True), scores) for who in ("policy", "reference")]


def test_escape_sequences_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(two_answers(NASTY), 0.1, Console(file=io.StringIO()))
    plain = capsys.readouterr().out
    wide = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    show(two_answers(NASTY), 0.1, wide)
    for shown in (plain, wide.file.getvalue()):  # type: ignore[attr-defined]
        assert not set(shown) & {"\x1b", "\x07", "\x9b", "\r", "\u202e"}
        assert "[bold]kept[/bold]" in shown and "red" in shown and "reward +1.0000 = 0.1 x +10.000 nats" in shown


def test_a_wide_terminal_shows_columns() -> None:
    for width, together in ((120, True), (60, False)):
        console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
        show(two_answers("yes"), 0.1, console)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert any(line.count("yes") == 2 for line in lines) is together


# --- the conversation ----------------------------------------------------------------------------------------------


@pytest.fixture
def talk(runs: SmallRuns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Types lines into a chat whose answers are made up; gives the exit code, output and what was asked."""

    def call(typed: str, fail: BaseException | None = None) -> tuple[int, str, list[Any]]:
        asked: list[Any] = []

        def answers(self: Pairing, prompt: Any, turn: int = 0) -> tuple[Answer, ...]:
            if fail is not None and len(asked) == 1:
                asked.append("failed")
                raise fail
            asked.append(prompt)
            return tuple(two_answers(f"answer {len(asked)}"))

        monkeypatch.setattr(Pairing, "answers", answers)
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        code = cli.main(["chat", str(runs.adapter)])
        return code, "".join(capsys.readouterr()), asked

    return call


def contents(prompt: tuple[Message, ...]) -> list[str]:
    return [message.content for message in prompt]


def test_a_conversation_goes_on_with_the_policys_answers(talk: Callable[..., Any]) -> None:
    code, shown, asked = talk("one\n\ntwo\n/new\n/nonsense\nthree\n/quit\nfour\n")
    assert code == 0
    assert [contents(prompt) for prompt in asked] == [["one"], ["one", "answer 1", "two"], ["three"]]
    assert [message.role for message in asked[1]] == ["user", "assistant", "user"]
    assert "> one\n" in shown and "/nonsense is no command; /new begins" in shown


def test_the_end_of_input_and_ctrl_c_end_a_conversation_calmly(talk: Callable[..., Any]) -> None:
    assert talk("one")[0] == 0
    code, shown, asked = talk("one\ntwo\nthree\n", fail=KeyboardInterrupt())
    assert code == 0 and "Traceback" not in shown and asked[1:] == ["failed"]


def test_a_question_that_cannot_be_answered_is_left_out(talk: Callable[..., Any]) -> None:
    code, shown, asked = talk("one\ntwo\nthree\n", fail=ConfigError("too long"))
    assert code == 0 and "error: too long" in shown
    assert contents(asked[2]) == ["one", "answer 1", "three"]


def test_a_system_turn_comes_first_and_needs_a_template(runs: SmallRuns, tmp_path: Path) -> None:
    pairing = pair_up(str(runs.adapter), system="very good")
    text = pairing.policy.tokenizer.decode(prompt_ids(pairing.policy, ASK))
    assert text.startswith("<|im_start|>system\nvery good<|im_end|>")
    plain = save_tiny(tmp_path / "plain", chat=False)
    with pytest.raises(ConfigError, match="system has no effect"):
        pair_up(str(plain), reference=str(plain), system="very good")


def test_plain_text_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = save_tiny(tmp_path / "plain", chat=False)
    code, out, err = run_chat(capsys, plain, "--prompt", "the cat sat", "--reference", str(plain))
    assert code == 0 and "no chat template" in err and out.count("reward +0.0000") == 2


# --- generation ----------------------------------------------------------------------------------------------------


def test_nothing_but_its_end_tokens_is_taken_from_a_models_generation_config() -> None:
    policy = tiny_policy(dtype=torch.float32)
    ids = [prompt_ids(policy, (Message("user", text),)) for text in ("the cat", "the dog ran fast on the hill")]
    before = write_answers(policy.model, policy.tokenizer, ids, Decoding(8))
    own = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.5, repetition_penalty=9.0, max_length=5, eos_token_id=[2, 7]
    )
    policy.model.generation_config = own
    assert write_answers(policy.model, policy.tokenizer, ids, Decoding(8)) == before
    assert policy.model.generation_config is own and end_tokens(policy.model, policy.tokenizer) == [2, 7]


def test_an_answer_ends_at_any_end_token() -> None:
    policy = tiny_policy(dtype=torch.float32)
    ids = [prompt_ids(policy, (Message("user", text),)) for text in ("the cat", "the dog ran fast on the hill")]
    free = write_answers(policy.model, policy.tokenizer, ids, Decoding(8))
    assert not any(answer.is_whole for answer in free)
    policy.model.generation_config.eos_token_id = [2, free[0].ids[3]]
    first = write_answers(policy.model, policy.tokenizer, ids, Decoding(8))[0]
    assert first.is_whole and first.ids == free[0].ids[: free[0].ids.index(free[0].ids[3]) + 1]


def test_drawing_is_repeatable_and_leaves_the_random_state_alone() -> None:
    policy = tiny_policy(dtype=torch.float32)
    ids = [prompt_ids(policy, ASK)]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draws = [write_answers(policy.model, policy.tokenizer, ids, Decoding(8, 1.0, seed))[0].ids for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    assert draws[0] == draws[1] != draws[2]


def test_a_finished_adapter_alone_is_compared_with_its_base(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(runs.adapter / name, folder)
    code, out, err = run_chat(capsys, folder, "--prompt", "the cat")
    assert code == 0 and "reference: the base model, adapter switched off" in out and "(by default)" in err
