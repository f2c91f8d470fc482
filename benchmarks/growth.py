"""How time and memory grow with the pairs, until the second step: likelier, and TRL on the same file.

    python benchmarks/growth.py [--pairs 1000 10000 100000] [--rivals likelier trl audit] [--markdown FILE]

Made-up pairs of 1 kB of text in JSON lines, the demo's tokenizer, a model of two layers that is too small to matter, on
the CPU. Each rival reads the file, makes tokens of it, scores a reference of what two steps take and makes these two
steps, in a process of its own. Memory is that of the process alone (RssAnon), looked at a hundred times a second, at
its fullest; the pages of mapped files, which the system drops when it needs their room, are told apart (RssFile).
`likelier` and `trl` begin with nothing cached; `again` is likelier with its token ids and scores cached, `resume` a run
that was interrupted after its first step and goes on; `audit` is `likelier audit`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RIVALS = ("likelier", "again", "resume", "audit", "trl")
WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system"),
    *("program", "question", "work", "government", "number", "night", "point", "home", "water", "room", "mother"),
    *("area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business"),
    *("issue", "side", "kind", "head", "house", "service", "friend"),
)
BATCH, STEPS = 4, 2


def pairs(count: int) -> Iterator[dict[str, str]]:
    """Distinct pairs of about 1 kB."""
    rng = random.Random(0)
    for number in range(count):
        prompt, chosen, rejected = (" ".join(rng.choices(WORDS, k=length)) for length in (45, 65, 55))
        yield {"prompt": f"{number} {prompt}", "chosen": chosen, "rejected": rejected}


class Watch:
    """Seconds and the fullest moment of each part of a process, from when it was made."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}
        self._part, self._ends = "imports", False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._since = time.perf_counter()
        self._thread.start()

    def _look(self) -> None:
        while not self._ends:
            self._note()
            time.sleep(0.01)

    def _note(self) -> None:
        status = Path("/proc/self/status").read_text()
        alone, mapped = (int(status.split(f"{name}:")[1].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
        part = self.parts.setdefault(self._part, {"seconds": 0.0, "MiB": 0.0, "mapped MiB": 0.0})
        part["MiB"], part["mapped MiB"] = max(part["MiB"], alone), max(part["mapped MiB"], mapped)

    def begin(self, part: str) -> None:
        """What follows is this part's."""
        self._note()
        now = time.perf_counter()
        self.parts[self._part]["seconds"] += now - self._since
        self._part, self._since = part, now

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Within it is this part's; then the part before goes on."""
        before = self._part
        self.begin(part)
        try:
            yield
        finally:
            self.begin(before)

    def wrapped(self, owner: Any, name: str, part: str, first: Callable[[], None] = lambda: None) -> None:
        """Every call of this function is this part's; `first` comes before it."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **more: Any) -> Any:
            first()
            with self.during(part):
                return original(*arguments, **more)

        setattr(owner, name, timed)

    def done(self) -> dict[str, Any]:
        """What was seen."""
        self.begin("")
        self._ends = True
        self._thread.join()
        kept = {name: part for name, part in self.parts.items() if name}
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {"parts": kept, "processor seconds": used.ru_utime + used.ru_stime}


# --- the rivals --------------------------------------------------------------------------------------------------


def run_likelier(watch: Watch, folder: Path, file: Path, how: str) -> None:
    """`likelier train` to the second step, or one more with what was left."""
    from likelier.cli.main import main
    from likelier.scoring.reference import proof
    from likelier.training import prepared, run, trainer

    watch.wrapped(run, "load_preferences", "read")
    watch.wrapped(prepared, "_prepare", "tokenize")
    watch.wrapped(prepared, "run_audit", "audit of the run")
    watch.wrapped(proof, "attach_reference", "reference")
    watch.wrapped(trainer.PreferenceTrainer, "training_step", "steps")
    watch.begin("the rest")
    if how == "interrupted":
        watch.wrapped(trainer.PreferenceTrainer, "training_step", "steps", lambda: os.kill(os.getpid(), signal.SIGINT))
    output = folder / ("run-resumed" if how in ("interrupted", "resume") else f"run-{how}")
    asked = f"train --method dpo --model {folder / 'model'} --data {file} --output {output} --max-steps {STEPS}"
    asked += f" --batch-size {BATCH} --max-length 1024 --token-budget 4096"
    code = main([*asked.split(), *(["--resume"] if how == "resume" else [])])
    _ok(None if how == "interrupted" else code)


def run_audit(watch: Watch, folder: Path, file: Path, how: str) -> None:
    """`likelier audit`."""
    from likelier.cli.main import main

    watch.begin("audit")
    _ok(main(["audit", str(file)]))


def run_trl(watch: Watch, folder: Path, file: Path, how: str) -> None:
    """TRL's DPOTrainer with its defaults, a stored reference, to the second step."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    watch.begin("read")
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / "datasets"))
    watch.begin("the rest")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        max_length=1024,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
    )
    watch.wrapped(DPOTrainer, "_prepare_dataset", "tokenize")
    watch.wrapped(DPOTrainer, "training_step", "steps")
    trainer = DPOTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()


RUNS: dict[str, Callable[[Watch, Path, Path, str], None]] = {"audit": run_audit, "trl": run_trl}


def _ok(code: int | None) -> None:
    if code not in (None, 0, 3):  # 3: the audit found something
        raise SystemExit(code)


# --- one size after the other ------------------------------------------------------------------------------------


def make_model(folder: Path) -> None:
    """A model of two layers with the demo's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from likelier import load_policy

    torch.manual_seed(0)
    tokenizer = load_policy("demo").tokenizer
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    named = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **named, tie_word_embeddings=True))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measured(rival: str, folder: Path, file: Path) -> dict[str, Any]:
    """The rival in a process of its own."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    environment = os.environ | {"LIKELIER_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    command = [sys.executable, __file__, "--worker", rival, str(folder), str(file)]
    log = folder / f"{rival}.log"
    with open(log, "w") as stream:
        code = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
    if code or not result.exists():
        raise SystemExit(f"{rival} ended with {code}:\n{log.read_text()[-3000:]}")
    return json.loads(result.read_text())


def work(rival: str, folder: Path, file: Path) -> None:
    """What a process of its own does."""
    watch = Watch()
    RUNS.get(rival, run_likelier)(watch, folder, file, rival)
    (folder / "result.json").write_text(json.dumps(watch.done()))


def table(found: dict[int, dict[str, Any]]) -> str:
    """Markdown: a line each size, rival and part."""
    lines = ["| pairs | who | part | seconds | MiB | mapped MiB |", "|---|---|---|---|---|---|"]
    for count, rivals in found.items():
        for rival, seen in rivals.items():
            parts = seen["parts"]
            for name, part in parts.items():
                figures = f"{part['seconds']:.1f} | {part['MiB']:,.0f} | {part['mapped MiB']:,.0f} |"
                lines.append(f"| {count:,} | {rival} | {name} | {figures}")
            sums = f"{sum(part['seconds'] for part in parts.values()):.1f}"
            most = [max(part[kind] for part in parts.values()) for kind in ("MiB", "mapped MiB")]
            lines.append(f"| {count:,} | {rival} | **whole** | {sums} | {most[0]:,.0f} | {most[1]:,.0f} |")
    return "\n".join([*lines, "", *slopes(found)])


def slopes(found: dict[int, dict[str, Any]]) -> list[str]:
    """What a pair more takes, between the smallest and the greatest size of each rival."""
    lines = []
    for rival in RIVALS:
        sizes = [count for count, rivals in found.items() if rival in rivals]
        if len(sizes) > 1:
            first, last = (found[count][rival]["parts"] for count in (sizes[0], sizes[-1]))
            grown = [max(part["MiB"] for part in parts.values()) for parts in (first, last)]
            each = (grown[1] - grown[0]) * 2**20 / (sizes[-1] - sizes[0])
            lines.append(f"- {rival}: {each:,.0f} bytes a pair ({sizes[0]:,} to {sizes[-1]:,})")
    return lines


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--folder", type=Path, help="where files and caches go (default: a temporary folder)")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.worker[0], *map(Path, asked.worker[1:]))
        return
    found: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        make_model(Path(scratch) / "model")
        for count in asked.pairs:
            folder = Path(scratch) / str(count)
            folder.mkdir()
            (folder / "model").symlink_to(Path(scratch) / "model")
            file = folder / "pairs.jsonl"
            with open(file, "w") as stream:
                stream.writelines(json.dumps(pair) + "\n" for pair in pairs(count))
            for rival in asked.rivals:
                if rival == "resume":
                    measured("interrupted", folder, file)
                found.setdefault(count, {})[rival] = measured(rival, folder, file)
                print(table({count: {rival: found[count][rival]}}), flush=True)
            file.unlink()
    if asked.markdown:
        asked.markdown.write_text(table(found) + "\n")


if __name__ == "__main__":
    main()
