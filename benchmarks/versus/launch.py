"""Start one worker, wait for it, and say in words what became of it if it left no result. Standard library only."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from versus.machine import package_environment

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "versus_trl.py"


def run_worker(job: dict[str, Any], where: Path, *, device: str, seconds: float, verbose: bool) -> dict[str, Any]:
    """The worker's result, or a `status` that says why there is none.

    Args:
        job: what the worker is to do; `result` is added.
        where: a folder for the job, its result and its log.
        device: cpu or cuda.
        seconds: after which it is ended.
        verbose: let it write to the terminal instead of its log.
    """
    result, file, log = where / "result.json", where / "job.json", where / "worker.log"
    file.write_text(json.dumps(job | {"result": str(result)}), encoding="utf-8")
    result.unlink(missing_ok=True)
    with open(log, "wb") as stream:
        output = None if verbose else stream
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "worker", str(file)],
            stdout=output,
            stderr=output,
            env=dict(package_environment(REPOSITORY, device)),
            cwd=where,
        )
        try:
            code = process.wait(timeout=seconds)
        except BaseException as error:
            process.kill()
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return {"status": "stopped: the time is up"}
            raise
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    return {"status": _failure(code, log.read_text(encoding="utf-8", errors="replace"))}


def _failure(code: int, log: str) -> str:
    """The exit code and the kind of error; not its message, which may quote rows."""
    if code == -signal.SIGKILL:
        return f"out of memory, most likely: killed (exit code {code})"
    if code < 0:
        return f"failed: exit code {code} ({signal.Signals(-code).name})"
    kind = log.strip().rsplit("\n", 1)[-1].split(":", 1)[0].rsplit(".", 1)[-1]
    words = "out of memory" if "OutOfMemoryError" in log or "DefaultCPUAllocator" in log else "failed"
    return f"{words}: exit code {code} ({kind if kind.isidentifier() else 'no result'})"
