"""A good row or two of every layout and known data set, to be harmed."""

from __future__ import annotations

from typing import Any

_TALK = [{"role": "user", "content": "ask"}]


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


_SHAREGPT = [{"from": "human", "value": "ask"}]
_HH = "\n\nHuman: ask\n\nAssistant: "

LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "tokens": [
        {
            "prompt_ids": [1, 5],
            "chosen_ids": [6, 2],
            "rejected_ids": [7, 2],
            "ref_chosen_logps": -1.0,
            "ref_rejected_logps": -2.0,
        }
    ],
    "sharegpt": [
        {
            "conversations": _SHAREGPT,
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
            "system": "be kind",
        }
    ],
    "text pairs": [
        {"prompt": "ask", "chosen": "yes", "rejected": "no", "weight": 2.0, "margin": 1.0, "votes": [3, 1, 0]},
        {
            "prompt": "tell",
            "chosen": "yes",
            "rejected": "no",
            "score_chosen": 2,
            "score_rejected": 1,
            "flip_chance": 0.1,
        },
    ],
    "chat pairs": [{"prompt": _TALK, "chosen": _turn("yes"), "rejected": _turn("no"), "tools": "[]"}],
    "hh": [{"chosen": _HH + "yes", "rejected": _HH + "no"}],
    "implicit": [{"chosen": [*_TALK, *_turn("yes")], "rejected": [*_TALK, *_turn("no")]}],
    "winner": [
        {"prompt": "ask", "first": "yes", "second": "no", "winner": "a", "score_first": 1, "score_second": 0},
        {"prompt": "tell", "first": "yes", "second": "no", "winner": "b", "score_first": 1, "score_second": 0},
    ],
    "ranks": [{"prompt": "ask", "answers": ["yes", "no", "it"], "ranks": [1, 3, 2]}],
    "scores": [{"prompt": "ask", "answers": ["yes", "no", "it"], "scores": [8.5, 2, 5]}],
    "judgements": [{"prompt": "ask", "answers": ["yes", "no", "it"], "judgements": ["a", "b", "tie"]}],
    "labels": [
        {"prompt": "ask", "completion": "yes", "label": True},
        {"prompt": "tell", "completion": "no", "label": False},
        {"prompt": "say", "completion": "it", "label": True},
    ],
    "messages": [{"messages": [*_TALK, *_turn("yes")], "label": True}],
    "sharegpt labels": [{"conversations": [*_SHAREGPT, {"from": "gpt", "value": "yes"}], "label": 1}],
    "completion": [{"prompt": "ask", "completion": "yes"}],
    "instruction": [{"instruction": "ask", "input": "this", "output": "yes"}],
    "nodes": [
        {"id": "1", "parent": None, "role": "user", "text": "ask", "rank": None},
        {"id": "2", "parent": "1", "role": "assistant", "text": "yes", "rank": 0},
        {"id": "3", "parent": "1", "role": "assistant", "text": "no", "rank": 1},
    ],
    "tree": [
        {
            "tree": {
                "role": "user",
                "text": "ask",
                "replies": [
                    {"role": "assistant", "text": "yes", "rank": 0},
                    {"role": "assistant", "text": "no", "rank": 1, "replies": [{"role": "user", "text": "why"}]},
                ],
            }
        }
    ],
    "pandalm": [
        {"instruction": "a", "input": "b", "response1": "c", "response2": "d", "annotator1": 1, "annotator2": 2}
    ],
    "stack": [{"question": "ask", "response_j": "yes", "response_k": "no"}],
    "qa": [
        {
            "question": "ask",
            "passages": [["one", "two"]],
            "prediction 1": "yes",
            "prediction 2": "no",
            "prediction 3": "it",
            "preference": [1, 2, 0],
        }
    ],
    "shp": [{"history": "ask", "human_ref_A": "yes", "human_ref_B": "no", "labels": 1}],
    "helpsteer": [{"context": _TALK, "response1": "yes", "response2": "no", "overall_preference": -2}],
    "arena": [
        {
            "conversation_a": [*_TALK, *_turn("yes")],
            "conversation_b": [*_TALK, *_turn("no")],
            "winner": "model_a",
        }
    ],
    "oasst": [
        {"message_id": "1", "parent_id": None, "role": "prompter", "text": "ask", "rank": None},
        {"message_id": "2", "parent_id": "1", "role": "assistant", "text": "yes", "rank": 0},
        {"message_id": "3", "parent_id": "1", "role": "assistant", "text": "no", "rank": 1},
    ],
    "llmbar": [
        {"input": "ask", "output_1": "yes", "output_2": "no", "label": 1},
        {"input": "tell", "output_1": "yes", "output_2": "no", "label": 2},
    ],
}
ROWS: list[list[dict[str, Any]]] = list(LAYOUTS.values())
