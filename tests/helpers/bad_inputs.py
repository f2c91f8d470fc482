"""Bad inputs of every kind: what a file holds or what is typed, for `test_bad_input.py`.

A case is a command line. In it `@NAME` is a file or folder below the example's own folder, `%NAME` one of the things
that are made once (`%model`, `%adapter`, `%pairs`, `%run`). `files` are made before, with this content; None makes a
folder.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAIR = {"prompt": "Ask", "chosen": "Yes", "rejected": "No"}
GOOD = json.dumps(PAIR) + "\n"
TRAIN = "train --model %model --output @out --max-steps 1 --batch-size 2"
SETTINGS = "model: '%model'\ndata: '%pairs'\noutput: '@out'\n"


@dataclass(frozen=True)
class Case:
    """What is done, in a line; the command; the files; what else is prepared in the example's folder."""

    title: str
    command: str
    files: dict[str, str | bytes | None] = field(default_factory=dict)
    prepare: Callable[[Path, dict[str, Path]], Any] | None = None


def _lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _copied(kind: str, **changes: bytes | str | None) -> Callable[[Path, dict[str, Path]], None]:
    """A copy of a model or run as `copy`, in which files hold something else, or (None) are gone."""

    def prepare(folder: Path, made: dict[str, Path]) -> None:
        shutil.copytree(made[kind], folder / "copy")
        for name, content in changes.items():
            path = (
                folder
                / "copy"
                / name.replace("__", "/").replace("_json", ".json").replace("_safetensors", ".safetensors")
            )
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def _linked(folder: Path, made: dict[str, Path]) -> None:
    """A link in the output folder that leads out of it."""
    (folder / "out" / "metrics.jsonl").symlink_to(folder / "elsewhere")


def _card(**changes: Any) -> Callable[[Path, dict[str, Path]], None]:
    """A copy of the run as `copy`, whose card says something else."""

    def prepare(folder: Path, made: dict[str, Path]) -> None:
        shutil.copytree(made["run"], folder / "copy")
        path = folder / "copy" / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")

    return prepare


def _spoilt_evaluation(folder: Path, made: dict[str, Path]) -> None:
    """In a run as versions wrote it that recorded no lengths and hashes."""
    shutil.copytree(made["run"], folder / "copy")
    path = folder / "copy" / "run.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: part for name, part in card.items() if name != "files"}), encoding="utf-8")
    content = '{"step": 2, "items": {"chosen": [1]}}'
    (folder / "copy" / "evaluations" / "step-2.json").write_text(content, encoding="utf-8")


def _without_base(folder: Path, made: dict[str, Path]) -> None:
    shutil.copytree(made["adapter"], folder / "copy")
    path = folder / "copy" / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": str(folder / "moved")}
    path.write_text(json.dumps(settings), encoding="utf-8")


def _link_to_itself(folder: Path, made: dict[str, Path]) -> None:
    (folder / "loop.jsonl").symlink_to(folder / "loop.jsonl")


def _wide(folder: Path, made: dict[str, Path]) -> None:
    """A model of another vocabulary."""
    from tests.helpers.support import tiny_policy

    policy = tiny_policy(1)
    policy.tokenizer.add_tokens(["<|new|>"])
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    policy.model.float().save_pretrained(folder / "wide")
    policy.tokenizer.save_pretrained(folder / "wide")


DATA = [
    Case("a file that is not there", f"{TRAIN} --data @prefs.jsonl"),
    Case("a kind of file that is not known", f"{TRAIN} --data @prefs.txt", {"prefs.txt": GOOD}),
    Case("an empty file", f"{TRAIN} --data @prefs.jsonl", {"prefs.jsonl": ""}),
    Case("a folder in place of a file", f"{TRAIN} --data @folder", {"folder": None}),
    Case("a link to itself", f"{TRAIN} --data @loop.jsonl", prepare=_link_to_itself),
    Case("a line cut off in the middle", "audit @prefs.jsonl", {"prefs.jsonl": GOOD + GOOD[:30]}),
    Case(
        "a name twice in one row",
        "audit @prefs.jsonl",
        {"prefs.jsonl": '{"prompt": "a", "chosen": "b", "chosen": "c"}\n'},
    ),
    Case("ten thousand brackets", "audit @prefs.jsonl", {"prefs.jsonl": GOOD + "[" * 10_000}),
    Case("a number of 5000 digits", "audit @prefs.jsonl", {"prefs.jsonl": '{"prompt": ' + "9" * 5000 + "}\n"}),
    Case("a line that is no object", "audit @prefs.jsonl", {"prefs.jsonl": GOOD + '["Ask", "Yes", "No"]\n'}),
    Case(
        "a file in Latin-1",
        "audit @prefs.jsonl",
        {"prefs.jsonl": GOOD.encode() + '{"prompt": "caf\u00e9"}\n'.encode("latin-1")},
    ),
    Case(
        "a .gz that was cut off",
        "audit @prefs.jsonl.gz",
        {"prefs.jsonl.gz": gzip.compress(GOOD.encode() * 9, mtime=0)[:-6]},
    ),
    Case("a .parquet that is none", "audit @prefs.parquet", {"prefs.parquet": "prompt,chosen"}),
    Case("a .xlsx that is none", "audit @prefs.xlsx", {"prefs.xlsx": "prompt,chosen"}),
    Case("a table with two columns of one name", "audit @prefs.csv", {"prefs.csv": "prompt,chosen,chosen\na,b,c\n"}),
    Case(
        "a table whose third line has too few columns",
        "audit @prefs.csv",
        {"prefs.csv": "prompt,chosen,rejected\na,b,c\na,b\n"},
    ),
    Case("an array with a comma too many", "audit @prefs.json", {"prefs.json": '[\n{"prompt": "a"},\n]\n'}),
    Case(
        "columns of no known format", "audit @prefs.jsonl", {"prefs.jsonl": _lines({"question": "Ask", "good": "Yes"})}
    ),
    Case(
        "a pair without its prompt", "audit @prefs.jsonl", {"prefs.jsonl": _lines({"chosen": "Yes", "rejected": "No"})}
    ),
    Case(
        "a column that is missing from the second row on",
        "audit @prefs.jsonl",
        {"prefs.jsonl": GOOD + _lines({"prompt": "a", "chosen": "b"})},
    ),
    Case(
        "a label that is neither true nor false",
        "audit @prefs.jsonl",
        {"prefs.jsonl": _lines({"prompt": "a", "completion": "b", "label": "great"})},
    ),
    Case(
        "answers that are numbers",
        "audit @prefs.jsonl",
        {"prefs.jsonl": _lines({"prompt": "a", "chosen": 1, "rejected": 2})},
    ),
    Case(
        "the last of several turns, where no answer has several",
        f"{TRAIN} --data @prefs.jsonl --train-on last",
        {"prefs.jsonl": _lines({"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"})},
    ),
    Case(
        "answers that the user ends",
        "audit @prefs.jsonl",
        {"prefs.jsonl": _lines({"prompt": "a", "completion": [{"role": "user", "content": "b"}], "label": True})},
    ),
    Case(
        "a message with an unknown role",
        "audit @prefs.jsonl",
        {
            "prefs.jsonl": _lines(
                {"messages": [{"role": "me", "content": "a"}, {"role": "assistant", "content": "b"}], "label": True}
            )
        },
    ),
    Case(
        "messages of a tree without ids",
        "audit @prefs.jsonl",
        {"prefs.jsonl": _lines({"id": None, "parent": None, "text": "a", "role": "user", "rank": 0})},
    ),
    Case(
        "labels for a method that learns from pairs",
        f"{TRAIN} --data @prefs.jsonl",
        {"prefs.jsonl": _lines({"prompt": "a", "completion": "b", "label": True})},
    ),
    Case(
        "one row, of which a share is to be held out",
        f"{TRAIN} --data @prefs.jsonl --eval-fraction 0.5",
        {"prefs.jsonl": GOOD},
    ),
    Case(
        "one label for KTO",
        f"{TRAIN} --method kto --data @prefs.jsonl",
        {"prefs.jsonl": _lines({"prompt": "a", "completion": "b", "label": True})},
    ),
    Case("rows that are all too long", f"{TRAIN} --data %pairs --max-length 4"),
]
COLUMNS = [
    Case("a role that is not known", "audit %pairs --columns promt=question"),
    Case("a word without an equals sign", "audit %pairs --columns prompt"),
    Case("a column that is not there", "audit %pairs --columns prompt=question"),
    Case("a setting without effect", "audit %pairs --columns winner_coding=1/2/0"),
    Case(
        "winners whose meaning is open",
        "audit @prefs.jsonl --columns first=chosen second=rejected winner=who",
        {"prefs.jsonl": _lines(PAIR | {"who": 0}, PAIR | {"who": 1})},
    ),
    Case(
        "winners that are numbers",
        "convert @prefs.jsonl @out.jsonl",
        {"prefs.jsonl": _lines(*({"prompt": "a", "first": "b", "second": "c", "winner": who} for who in (0, 1, 2)))},
    ),
    Case(
        "ranks whose best end is open",
        "audit @prefs.jsonl",
        {"prefs.jsonl": _lines({"prompt": "a", "answers": ["b", "c", "d"], "ranks": [2, 3, 1]})},
    ),
    Case(
        "ratings for labels",
        f"{TRAIN} --method kto --data @prefs.jsonl",
        {"prefs.jsonl": _lines(*({"prompt": "a", "completion": f"b{stars}", "label": stars} for stars in (1, 3, 5)))},
    ),
    Case(
        "truth in a column that is not called label",
        "audit @prefs.jsonl --columns label=toxic",
        {"prefs.jsonl": _lines({"prompt": "a", "completion": "b", "toxic": True})},
    ),
]
CONFIG = [
    Case("a run file that is not there", "train @run.yaml"),
    Case("a run file that is no YAML", "train @run.yaml", {"run.yaml": "method: [dpo\n"}),
    Case("a run file that is a list", "train @run.yaml", {"run.yaml": "- dpo\n"}),
    Case("an option that does not exist", "train @run.yaml", {"run.yaml": SETTINGS + "learning_rat: 1e-6\n"}),
    Case("an option that stands there twice", "train @run.yaml", {"run.yaml": SETTINGS + "beta: 0.1\nbeta: 0.2\n"}),
    Case(
        "an option that stands twice in a stage",
        "train @run.yaml",
        {"run.yaml": SETTINGS + "stages:\n- method: dpo\n  beta: 0.1\n  seed: 7\n  beta: 0.2\n"},
    ),
    Case("an option of another method", "train @run.yaml", {"run.yaml": SETTINGS + "tau: 0.1\n"}),
    Case("a word where a number belongs", "train @run.yaml", {"run.yaml": SETTINGS + "batch_size: many\n"}),
    Case("a date that does not exist", "train @run.yaml", {"run.yaml": SETTINGS + "run: 2001-99-99\n"}),
    Case(
        "aliases that unfold without end",
        "train @run.yaml",
        {
            "run.yaml": "a: &a [x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n"
                for old, new in zip("abcdefgh", "bcdefghi", strict=True)
            )
        },
    ),
    Case(
        "an argument of transformers that contradicts an option",
        "train @run.yaml",
        {"run.yaml": SETTINGS + "trainer: {num_train_epochs: 3}\n"},
    ),
    Case("a method that does not exist", f"{TRAIN} --data %pairs --method dppo"),
    Case("a flag that does not exist", f"{TRAIN} --data %pairs --bta 0.1"),
    Case("a batch of nothing", f"{TRAIN} --data %pairs --batch-size 0"),
    Case("two options that exclude each other", f"{TRAIN} --data %pairs --epochs 2"),
    Case("an option without effect", f"{TRAIN} --data %pairs --eval-steps 5"),
    Case("no data at all", TRAIN),
    Case("a memory that no machine has", "estimate --model %model --memory 1e999GB"),
    Case("a temperature that is no number", "chat %run --prompt Ask --temperature nan"),
    Case("a single step, which the warm-up takes", f"{TRAIN} --data %pairs"),
    Case("a date that the template does not write", f"{TRAIN} --data %chat --date 2026-11-29"),
    Case("a date that is none", f"{TRAIN} --data %chat --date 29.11.2026"),
    Case("a learning rate that is no number", f"{TRAIN} --data %pairs --learning-rate nan"),
]
MODELS = [
    Case("a model folder that is not there", "train --model @absent --data %pairs --output @out"),
    Case("a folder without config.json", "train --model @folder --data %pairs --output @out", {"folder": None}),
    Case(
        "a model without weights",
        "train --model @copy --data %pairs --output @out",
        prepare=_copied("model", model_safetensors=None),
    ),
    Case(
        "weights that are broken",
        "train --model @copy --data %pairs --output @out",
        prepare=_copied("model", model_safetensors=b"\x10\x00\x00\x00\x00\x00\x00\x00{broken"),
    ),
    Case(
        "a config.json that is broken",
        "train --model @copy --data %pairs --output @out",
        prepare=_copied("model", config_json="{"),
    ),
    Case(
        "a tokenizer that is broken",
        "train --model @copy --data %pairs --output @out",
        prepare=_copied("model", tokenizer_json="{}"),
    ),
    Case(
        "a damaged generation config",
        "audit %pairs --model @copy",
        prepare=_copied("model", **{"generation_config.json": "{"}),
    ),
    Case(
        "an end of sequence that is no token id",
        "audit %pairs --model @copy",
        prepare=_copied("model", **{"generation_config.json": '{"eos_token_id": ["</s>"]}'}),
    ),
    Case("an adapter whose base was moved", "train --model @copy --data %pairs --output @out", prepare=_without_base),
    Case(
        "an adapter whose settings are broken",
        "train --model @copy --data %pairs --output @out",
        prepare=_copied("adapter", adapter_config_json="{"),
    ),
    Case("an adapter without weights", "merge @copy @out", prepare=_copied("adapter", adapter_model_safetensors=None)),
    Case(
        "conversations for a model without a template",
        "train --model @copy --data %chat --output @out",
        prepare=_copied("model", **{"chat_template.jinja": None}),
    ),
]
REFERENCES = [
    Case("a reference that is not there", f"{TRAIN} --data %pairs --reference @absent"),
    Case("a base for a model without an adapter", f"{TRAIN} --data %pairs --reference base"),
    Case("a reference of another vocabulary", f"{TRAIN} --data %pairs --reference @wide", prepare=_wide),
    Case("a reference for a method without one", f"{TRAIN} --data %pairs --method simpo --reference %model"),
    Case("no reference for a whole model", "score --model %model --data %pairs --output @scores.jsonl"),
]
RUNS = [
    Case("a folder that holds no run", "diagnose @folder", {"folder": None}),
    Case("a card that is broken", "report @copy", prepare=_copied("run", run_json="{")),
    Case("a card that was changed by hand", "diagnose @copy", prepare=_card(options={"batch_size": "eight"})),
    Case(
        "a broken line of metrics",
        "diagnose @copy",
        prepare=_copied("run", **{"metrics.jsonl": '{"step": 1, "loss": 0.5}\n{"step": 2, "lo\n'}),
    ),
    Case(
        "a metric that is no number",
        "watch @copy --once",
        prepare=_copied("run", **{"metrics.jsonl": '{"step": 1, "loss": "low"}\n'}),
    ),
    Case("an evaluation of another shape", "report @copy", prepare=_spoilt_evaluation),
    Case(
        "an evaluation that is missing",
        "compare @copy %run",
        prepare=_copied("run", **{"evaluations/step-2.json": None}),
    ),
    Case(
        "a log that lost its lines",
        "diagnose @copy",
        prepare=_copied("run", **{"metrics.jsonl": '{"step": 1, "loss": 0.5}\n'}),
    ),
    Case("a home that nobody has", "diagnose ~nosuchuser/run"),
    Case("a run compared with itself alone", "compare %run"),
    Case("a row that the run did not train on", "inspect %run --row 999"),
]
RESUMING = [
    Case("nothing to resume", f"{TRAIN} --data %pairs --resume"),
    Case(
        "other options than the interrupted run's",
        "train --model %model --data %pairs --output @copy --resume --batch-size 3 --max-steps 2 --save-steps 1",
        prepare=_copied("run"),
    ),
]
OUTPUTS = [
    Case(
        "a run where there is one already", "train --model %model --data %pairs --output @copy", prepare=_copied("run")
    ),
    Case("an output below a file", f"{TRAIN.replace('@out', '@file/out')} --data %pairs", {"file": "x"}),
    Case("a conversion onto its own input", "convert @prefs.jsonl @prefs.jsonl", {"prefs.jsonl": GOOD}),
    Case("a page onto the data", "inspect %run --row 1 --html @prefs.jsonl", {"prefs.jsonl": GOOD}),
    Case("a report onto a page of somebody else", "report %run --output @page.html", {"page.html": "<p>mine"}),
    Case(
        "an imported file onto a file", "import-config @their.yaml --output @b.yaml", {"their.yaml": "", "b.yaml": ""}
    ),
    Case("a run over files of the user's", f"{TRAIN} --data %pairs", {"out": None, "out/README.md": "mine"}),
    Case("a run over a link", f"{TRAIN} --data %pairs", {"out": None}, prepare=_linked),
    Case("a conversion to a name of another kind", "convert @prefs.jsonl @prefs.csv", {"prefs.jsonl": GOOD}),
    Case("scores into a folder that is not there", "score --model %run --data %pairs --output @absent/scores.jsonl"),
    Case("a report into a folder", "report %run --output @folder", {"folder": None}),
    Case("a merge into a folder that is in use", "merge %adapter @folder", {"folder": None, "folder/notes.txt": "x"}),
]
_THOUGHT = {
    "prompt": [{"role": "user", "content": "2 times 3?"}],
    "chosen": [{"role": "assistant", "content": "<think>2 and 2 and 2</think>It is 6."}],
    "rejected": [{"role": "assistant", "content": "<think>a guess</think>It is 7."}],
}
_SPOKEN = {**_THOUGHT, "chosen": "It is 6.", "rejected": "It is 7."}


def _template(text: str, ask: str = "assistant: ") -> str:
    """A chat template that writes of a message what `text` says, and asks with `ask`."""
    turns = "{% for m in messages %}{{ m.role }}: " + text + "<|im_end|>{% endfor %}"
    return turns + "{% if add_generation_prompt %}" + ask + "{% endif %}"


def _grown(folder: Path, made: dict[str, Path]) -> None:
    """A model whose tokenizer writes a mark that its embedding has no row for."""
    from tests.helpers.support import tiny_tokenizer

    shutil.copytree(made["model"], folder / "copy")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*(f"<|{n}|>" for n in range(384)), "<|bot|>"]})
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|im_start|>", "<|bot|>")
    tokenizer.save_pretrained(folder / "copy")


TEMPLATES = [
    Case(
        "reasoning that the template cuts off",
        f"{TRAIN} --data @talks.jsonl --chat-template @t.jinja",
        {"talks.jsonl": _lines(_THOUGHT), "t.jinja": _template("{{ m.content.split('</think>')[-1] }}")},
    ),
    Case(
        "text that the template cuts off",
        f"{TRAIN} --data @talks.jsonl --chat-template @t.jinja",
        {"talks.jsonl": _lines(_SPOKEN), "t.jinja": _template("{{ m.content[:5] }}")},
    ),
    Case(
        "answers where the model never writes",
        f"{TRAIN} --data @talks.jsonl --chat-template @t.jinja",
        {"talks.jsonl": _lines(_SPOKEN), "t.jinja": _template("{{ m.content }}", "assistant: Sure! ")},
    ),
    Case(
        "a template that refuses every row",
        f"{TRAIN} --data @talks.jsonl --chat-template @t.jinja",
        {"talks.jsonl": _lines(_SPOKEN), "t.jinja": "{{ raise_exception('no such roles') }}"},
    ),
    Case("no reasoning to drop", f"{TRAIN} --data %chat --reasoning drop"),
    Case("no system turn to fold", f"{TRAIN} --data %chat --fold-system"),
    Case("a tokenizer larger than the embedding", "train --model @copy --data %chat --output @out", prepare=_grown),
    Case("a preview of a row that is not there", "preview %pairs --model %model --row 999"),
    Case("a preview of two choices of rows", "preview %pairs --model %model --row 1 --rows 2"),
    Case(
        "an adapter of another kind",
        "train --model @copy --data %pairs --output @out",
        prepare=_copied("adapter", adapter_config_json='{"peft_type": "IA3", "base_model_name_or_path": "demo"}'),
    ),
]
PARTS = {
    "Data files": DATA,
    "Columns": COLUMNS,
    "Options and run files": CONFIG,
    "Models": MODELS,
    "Chat templates": TEMPLATES,
    "References": REFERENCES,
    "Run folders": RUNS,
    "Resuming": RESUMING,
    "Outputs": OUTPUTS,
}
