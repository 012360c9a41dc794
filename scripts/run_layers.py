"""Runs the named make targets one after the other and prints what each took, also when one fails.

Later layers still run after a failure, so that one run shows everything. The exit code is 1 if any layer failed. What a layer
could not run on this machine it writes, with the reason, into the file that AUTOGLM_NOT_RUN names: the table ends with that.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Far beyond what a layer takes, so that a hang ends with pytest's summary rather than with somebody's patience.
LAYER_LIMIT_S = 60 * 60
INTERRUPT_GRACE_S = 120


@dataclass(frozen=True)
class Result:
    """What became of one layer."""

    layer: str
    seconds: float
    outcome: str
    not_run: tuple[str, ...] = ()
    """What could not be run on this machine, and why."""

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def run_layer(layer: str) -> Result:
    print(f"\n===== {layer} =====", flush=True)
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("r", prefix="not-run-") as told:
        env = {**os.environ, "AUTOGLM_NOT_RUN": told.name}
        process = subprocess.Popen(["make", "--no-print-directory", layer], start_new_session=True, env=env)
        outcome = _outcome(process)
        not_run = tuple(dict.fromkeys(Path(told.name).read_text().splitlines()))
    seconds = time.monotonic() - started
    print(f"===== {layer}: {outcome} in {_clock(seconds)} =====", flush=True)
    return Result(layer, seconds, outcome, not_run)


def _outcome(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(LAYER_LIMIT_S)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"stopped after {_clock(LAYER_LIMIT_S)}"
    except KeyboardInterrupt:
        _end(process)
        return "interrupted"
    return "passed" if status == 0 else f"failed ({status})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """An interrupt lets pytest end its processes and close its report; a kill comes only when that does not help."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(INTERRUPT_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60} min {seconds % 60:04.1f} s"


def table(results: list[Result]) -> str:
    width = max(len("layer"), *(len(result.layer) for result in results))
    rows = [f"{result.layer:<{width}}  {_clock(result.seconds):>14}  {_told(result)}" for result in results]
    total = sum(result.seconds for result in results)
    rows.append(f"{'total':<{width}}  {_clock(total):>14}")
    rows += [f"NOT RUN HERE, in {result.layer}: {why}" for result in results for why in result.not_run]
    return "\n".join([f"{'layer':<{width}}  {'time':>14}  outcome", *rows])


def _told(result: Result) -> str:
    return f"{result.outcome}, BUT NOT ALL OF IT RAN (see below)" if result.not_run else result.outcome


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(layers: list[str]) -> int:
    # Whoever stops the run with SIGTERM (a CI runner) also gets the table, and no test process stays.
    # A shell lets what it starts with & ignore SIGINT, and layers would inherit that: with a handler they do not.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    results: list[Result] = []
    try:
        for layer in layers:
            results.append(run_layer(layer))
            if results[-1].outcome == "interrupted":
                break
    finally:
        if results:
            print(f"\n{table(results)}", flush=True)
    return 0 if len(results) == len(layers) and all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
