"""All that only a GPU can tell, in at most eight minutes on a machine with one and without network.

    python benchmarks/gpu_check.py --output OUTPUT                     # writes OUTPUT/gpu_check.md, .json of the rivals
    python benchmarks/gpu_check.py --device cpu --quick --output OUT   # the same on a CPU with a tiny model

Three parts, one after the other. Equality: the fast path against the plain one, log-probabilities and gradients, with
all weights in float32, bfloat16 arithmetic and bfloat16 weights, with LoRA, and in 4 bits where bitsandbytes is
installed. The memory plan: planned against allocated (`memory_plan.py`). Against TRL (`versus_trl.py`), with its fused
head and kernels where liger_kernel is installed. Ends with 1 where a path is not equal or a part failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MINUTES = 8.0
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("float32", {"dtype": "float32"}),
    ("bfloat16 arithmetic", {"dtype": "bfloat16"}),
    ("bfloat16 weights", {"dtype": "pure-bfloat16"}),
    ("LoRA, float32", {"dtype": "float32", "lora_r": 16}),
    ("LoRA, bfloat16", {"dtype": "bfloat16", "lora_r": 16}),
    ("QLoRA", {"dtype": "bfloat16", "lora_r": 16, "load_in_4bit": True}),
]
# What rounding may do: nats a token, and the share of the gradient's norm.
ALLOWED = {"float32": (1e-4, 1e-3), "bfloat16": (0.05, 0.1)}


def groups_of(rows: int, prompt: int, answer: int, vocabulary: int) -> list[Any]:
    """Prompts of random tokens with two answers each, of several lengths."""
    import numpy as np

    from likelier.data.groups import Group
    from likelier.data.records import Source

    draw = np.random.default_rng(0)

    def tokens(most: int) -> Any:
        return draw.integers(3, vocabulary, int(draw.integers(most // 2, most + 1))).astype(np.int32)

    return [Group(tokens(prompt), (tokens(answer), tokens(answer)), Source("made", row)) for row in range(rows)]


def equality(model: str, way: str, how: dict[str, Any], device: str, rows: int) -> tuple[str, bool]:
    """One line of the table, and whether both paths are equal but for rounding."""
    import torch

    from likelier import LoraOptions, load_policy
    from likelier.scoring import attach_scorer, collate, score_plain

    options = {name: value for name, value in how.items() if name != "dtype"}
    policy = load_policy(model, dtype=how["dtype"], lora=LoraOptions(**options))
    if "load_in_4bit" not in how:
        policy.model.to(device)
    groups = groups_of(rows, 16 * rows, 8 * rows, len(policy.tokenizer))
    chosen = attach_scorer(policy.model, autocast=policy.autocast, groups=groups)
    batch, found = collate(groups, device=device), []
    for asked in (None, score_plain):
        policy.model.zero_grad(set_to_none=True)
        scores = policy.model(batch=batch, how=asked)
        scores.logps.sum().backward()
        gradients = [weight.grad.float().flatten() for weight in policy.model.parameters() if weight.grad is not None]
        found.append((scores.token_logps.detach(), torch.cat(gradients)))
    (logps, gradient), (plain_logps, plain_gradient) = found
    apart = float((logps - plain_logps).abs().mean())
    share = float((gradient - plain_gradient).norm() / plain_gradient.norm())
    nats, most = ALLOWED["float32" if how["dtype"] == "float32" else "bfloat16"]
    equal = chosen.name == "shared-prefix" and apart <= nats and share <= most
    return f"| {way} | {chosen.name} | {apart:.1e} | {share:.1e} | {'yes' if equal else 'NO'} |", equal


def every_equality(model: str, device: str, rows: int) -> tuple[str, bool]:
    """The table, and whether all ways are equal."""
    import torch

    lines, right = (
        ["| weights | scorer | nats a token apart | gradients apart | equal |", "|---|---|---|---|---|"],
        True,
    )
    for way, how in WAYS:
        if "load_in_4bit" in how and (device == "cpu" or find_spec("bitsandbytes") is None):
            lines.append(f"| {way} | left out: needs CUDA and bitsandbytes | | | |")
            continue
        line, equal = equality(model, way, how, device, rows)
        lines, right = [*lines, line], right and equal
        if device == "cuda":
            torch.cuda.empty_cache()
    return "\n".join(lines), right


def run(words: list[str], seconds: float) -> tuple[str, int]:
    """What another benchmark prints, and its exit code; it is ended after `seconds`."""
    try:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=max(10.0, seconds))
    except subprocess.TimeoutExpired:
        return f"not done within {seconds:.0f} seconds", 1
    return done.stdout + (done.stderr[-2000:] if done.returncode else ""), done.returncode


def parts(flags: argparse.Namespace, folder: Path) -> list[tuple[str, str, bool]]:
    """Title, text and success of each part."""
    sys.path.insert(0, str(HERE))
    from versus.models import model_folder

    end = time.monotonic() + 60 * MINUTES
    tiny = flags.quick
    model = str(model_folder("tiny" if tiny else "random-0.5B", folder))
    table, equal = every_equality(model, flags.device, 4 if tiny else 16)
    memory = ["--model", model, "--device", flags.device]
    if tiny:
        told, code = run([str(HERE / "memory_plan.py"), *memory, "--only", "0"], end - time.monotonic())
    else:
        told, code = run([str(HERE / "memory_plan.py"), *memory, "--methods", "dpo", "kto"], 150)
        code = 0 if "| dpo |" in told else code  # a plan that is off is told in the table
    words = ["--device", flags.device, "--output", str(flags.output)]
    if tiny:
        words += ["--plan", "cuda", "--model", "tiny", "--pairs", "4", "--repeats", "1", "--cases", "1B-hh-full"]
        words += ["--only", "likelier,trl-tuned"]
    left = end - time.monotonic()
    versus, ended = run([str(HERE / "versus_trl.py"), *words, "--minutes", f"{max(0.5, left / 60 - 0.3):.1f}"], left)
    results = sorted(flags.output.glob("versus_trl_*.md"))
    return [
        ("The fast path against the plain one", table, equal),
        ("The memory plan", told, code == 0),
        ("Against TRL", "\n".join([versus, *(one.read_text("utf-8") for one in results)]), ended == 0),
    ]


def main() -> int:
    """Read the command line, run the parts, write and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try this program")
    parser.add_argument("--output", type=Path, required=True)
    flags = parser.parse_args()
    flags.output = flags.output.resolve()
    flags.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        found = parts(flags, Path(folder))
    text = "\n\n".join(f"## {title}: {'done' if right else 'NOT RIGHT'}\n\n{told}" for title, told, right in found)
    (flags.output / "gpu_check.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(not all(right for _, _, right in found))


if __name__ == "__main__":
    sys.exit(main())
