"""Rewards with a time limit, and reward services."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from likelier.online.rewards.load import load_reward, load_rewards
from likelier.online.rewards.reward import LimitedReward, Reward
from likelier.utils.errors import ConfigError
from likelier.utils.service import ServiceError
from tests.helpers.services import allow_this_machine, reply, serving
from tests.online.test_rewards import TWO, answered

pytestmark = pytest.mark.slow

SOURCE = """
import time
def slow(completions):
    time.sleep(600 * ("hang" in completions[0]))
    return [float(len(completions[0]))]
def bad(completions, answer):
    return [1 / 0] if answer[0] == "3" else [True]
def none(completions):
    return [float("nan")]
def own(completions):
    return [1.0]
def heavy(completions):
    import sys
    return [bool({"torch", "transformers"} & sys.modules.keys())]
own.time_limit = 60
"""


@pytest.fixture
def named(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "mine.py").write_text(SOURCE)
    made: list[Reward] = []

    def load(function: str, timeout: float | None = 60) -> Reward:
        made.append(load_reward(f"{tmp_path}/mine.py:{function}", timeout=timeout))
        return made[-1]

    yield load
    for one in made:
        one.close()


def test_an_answer_over_the_limit_has_no_verdict_and_is_counted(named: Any) -> None:
    reward = named("slow", 5)
    found = reward([answered("one"), answered("hang"), answered("four")]).tolist()
    assert found[0] == 3 and isnan(found[1]) and found[2] == 4 and reward.overruns == 1


def test_a_reward_that_never_has_a_verdict_in_time_ends_the_run(named: Any) -> None:
    with pytest.raises(ConfigError, match=r"none of the first 3 answers had a verdict within 0\.1 seconds"):
        named("slow", 0.1)([answered("hang", number=number) for number in range(1, 9)])


def test_a_function_asks_for_a_limit_itself(named: Any) -> None:
    own = named("own", None)
    assert isinstance(own, LimitedReward) and own.seconds == 60 and own(TWO).tolist() == [1, 1]
    assert not isinstance(named("slow", None), LimitedReward)


def test_its_process_starts_without_the_libraries_of_models(named: Any) -> None:
    assert named("heavy")([answered("one")]).tolist() == [0]


def test_what_fails_there_is_named_as_it_is_here(named: Any) -> None:
    with pytest.raises(ConfigError, match=r"mine.py:bad': prompts\.jsonl:4, answer 2: it raised ZeroDivisionError"):
        named("bad")(TWO)
    with pytest.raises(ConfigError, match=r"prompts\.jsonl:1, answer 1 got nan"):
        named("none")(TWO)


def test_a_pattern_that_takes_for_ever_is_ended() -> None:
    several = load_rewards(["regex:^(a+)+$", "json"], timeout=3)
    found = several([answered("aaa"), answered("a" * 60 + "b")])
    several.close()
    assert found[0].tolist() == [1, 0] and isnan(found[1, 0]) and several.overruns == {"regex": 1, "json": 0}


# --- services --------------------------------------------------------------------------------------------------------


def test_a_service_is_sent_what_a_function_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_this_machine(monkeypatch)
    asked = []

    def answer(handler: BaseHTTPRequestHandler, content: Any) -> None:
        asked.append(content)
        reply(handler, {"rewards": [None, *range(1, len(content["completions"]))]})

    with serving(answer) as url:
        reward = load_reward(url)
        found = reward([answered("one", answer="1") for _ in range(70)]).tolist()
    assert isnan(found[0]) and found[1:64] == list(range(1, 64)) and isnan(found[64]) and found[65] == 1
    assert [len(one["prompts"]) for one in asked] == [64, 6]
    assert {name: values[0] for name, values in asked[0].items()} == {
        "prompts": "how much?",
        "completions": "one",
        "completion_ids": [5, 2],
        "stop_reasons": "eos",
        "answer": "1",
    }
    assert reward.name == url.removeprefix("http://").removesuffix("/score").replace(":", "_")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([1, 2], r"must answer {\"rewards\": \[...\]} with 2 numbers, one an answer; it answered \[1, 2\]"),
        ({"rewards": [1]}, "with 2 numbers"),
        ({"rewards": [1, "x"]}, r"prompts\.jsonl:4, answer 2 got 'x'"),
        ({"error": "no model"}, "no model"),
    ],
)
def test_a_service_that_answers_something_else(monkeypatch: pytest.MonkeyPatch, told: Any, words: str) -> None:
    allow_this_machine(monkeypatch)
    failing = pytest.raises((ServiceError, ConfigError), match=words)
    with serving(lambda handler, content: reply(handler, told)) as url, failing:
        load_reward(url)(TWO)


def test_the_server_of_the_page_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"
    (code,) = re.findall(r"^cat > server\.py <<'END'\n(.*?)^END$", page.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "server.py").write_text(code)
    allow_this_machine(monkeypatch)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "server.py"), str(port)], stderr=subprocess.DEVNULL
    ) as server:
        until = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        found = load_reward(f"http://127.0.0.1:{port}/score")(TWO).tolist()
        server.kill()
    assert found == [1, 0]
