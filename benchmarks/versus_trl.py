"""likelier against TRL's DPOTrainer: seconds, pairs a second, peak memory, losses, and operations on the same rows.

    python benchmarks/versus_trl.py                       # the whole on this CPU (make bench)
    python benchmarks/versus_trl.py --quick               # under ten minutes (make bench-quick)
    python benchmarks/versus_trl.py --growth              # 100, 1,000 and 10,000 pairs on a tiny model
    python benchmarks/versus_trl.py --cases hh-full,qa-full --only likelier,trl-tuned --repeats 3

On a CUDA machine, without network (TRL and what it needs may come as wheels: trl, datasets, dill, multiprocess):

    python3 -m pip install -q --no-index --no-deps --target /tmp/site WHEELS/*.whl
    PYTHONPATH=/tmp/site python3 benchmarks/versus_trl.py --device cuda --output OUTPUT

Every run is a process of its own, the rivals take turns, and results are written after each run to
`versus_trl_cpu.json` and `.md` (`_cpu_quick`, `_cpu_growth`, `_cuda`). Cases, rows, repeats and minutes stand in
`versus/cases.py`, the formulas of the operations in `versus/flops.py`. Real rows are read from `--data`, by default the
folder shared/data beside the repository; random ones are made. `--plan cuda --device cpu --model tiny` tries the CUDA
plan on a CPU.
"""

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path

from versus.bench import Bench
from versus.cases import PLANS, chosen
from versus.launch import REPOSITORY


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, under ten minutes")
    parser.add_argument("--growth", action="store_true", help="only the growth with the number of pairs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cases", type=_names, help="these cases of the plan only, comma-separated")
    parser.add_argument("--only", type=_names, help="these rivals only, comma-separated")
    parser.add_argument("--repeats", type=int, help="of every rival")
    parser.add_argument("--pairs", type=int, help="rows of every case")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so many minutes, and stop what runs")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--verbose", action="store_true", help="let the workers write to the terminal (rows may show)")
    parser.add_argument("--plan", choices=sorted(PLANS), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Read the command line and run."""
    if sys.argv[1:2] == ["worker"]:
        from versus.worker import work

        return work(sys.argv[2])
    parser = _flags()
    flags = parser.parse_args()
    kind = "cuda" if flags.device == "cuda" else f"cpu{'_quick' * flags.quick or '_growth' * flags.growth}"
    plan = PLANS[flags.plan or kind]
    try:
        cases = chosen(
            plan, names=flags.cases, rivals=flags.only, repeats=flags.repeats, model=flags.model, pairs=flags.pairs
        )
    except ValueError as error:
        parser.error(str(error))
    extras = plan.extras and not flags.cases
    plan = replace(plan, cases=cases, extras=extras, minutes=flags.minutes or plan.minutes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # so that the worker is ended as well
    Bench(plan, flags.device, flags.data.resolve(), flags.output.resolve(), flags.verbose).run()
    return None


if __name__ == "__main__":
    main()
