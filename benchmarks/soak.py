"""A long run of the testbed with small faults on: whether memory, open files and threads of its processes stay flat.

    python benchmarks/soak.py --out runs/soak --steps 500 [--minutes 4]
    python benchmarks/soak.py --out runs/soak --steps 500 --table

In every step some completions meet a reward that hangs, raises, exits, prints, gives no number or leaves a child behind
(tests/e2e/wild_reward.py). After each step all processes of the run are measured: OUT/soak.jsonl. --minutes ends the
run after so long; the next start resumes it, with new processes. Growth is therefore taken within the lives of the
processes, from the WARM-th step of each life on.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from fault_kinds import PATIENCE, PROCESSES, command_line, end_all, ended, processes, wait_until
from faults import SETTINGS, SUBREAPER, latest, make_testbed

from ctwa.report.markdown import table
from ctwa.run.folder import RunFolder

WARM = 10
"""Steps of a process' life in which it may grow: caches fill, and glibc keeps what it was given once."""
MEASURED = ("MB", "files", "threads")
FLAT = {"MB": 5.0, "files": 1.0, "threads": 1.0}
"""What a process may grow by in 100 steps; of memory, or by 2 % of what it has."""
REWARD = Path(__file__).parents[1] / "tests" / "e2e" / "wild_reward.py"
FAULTY = (
    f"+ctwa.objectives.wild={{reward_fn:'{REWARD}:wild_at_times',weight:0.1,target:0.1,max_unscored:1,timeout:1}}",
    "trainer.test_freq=25",
    "data.val_max_samples=32",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--table", action="store_true", help="of what is in OUT")
    arguments = parser.parse_args()
    records = arguments.out / "soak.jsonl"
    if not arguments.table:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing of the run is left
        ctypes.CDLL(None).prctl(SUBREAPER, 1)
        try:
            soak(arguments.out, arguments.steps, time.monotonic() + 60 * arguments.minutes, records)
        finally:
            end_all()
    print(told([json.loads(each) for each in records.read_text().splitlines()], arguments.steps))


def soak(out: Path, num_steps: int, until: float, records: Path) -> None:
    """Go on with the run until it ends, or a time (monotonic, s) has come."""
    run, testbed = RunFolder(out / "run"), make_testbed(out)
    own = [f"ctwa.run={run.path}", f"ctwa.task_dir={testbed}", *SETTINGS, *FAULTY]
    words = [sys.executable, "-m", "ctwa.cli", "train", *own, f"trainer.total_training_steps={num_steps}"]
    life = f"{time.time():.0f}"
    with (out / "soak.output").open("ab") as output, records.open("a") as file:
        command = subprocess.Popen(words, start_new_session=True, stdout=output, stderr=subprocess.STDOUT)
        measured = last_step(run)
        while not ended(command) and time.monotonic() < until:
            if (step := last_step(run)) > measured:
                measured = step
                print(json.dumps({"step": step, "life": life, **measure(command.pid)}), file=file, flush=True)
            time.sleep(0.05)
        command.terminate()
        wait_until(lambda: ended(command), patience=PATIENCE)


def last_step(run: RunFolder) -> int:
    """That has a record; 0 before the first."""
    return max((each["step"] for each in latest(run.metrics, size=1 << 16)), default=0)


def measure(command: int) -> dict[str, dict[str, float]]:
    """All processes of the run by kind: the sums of what they have, and how many they are.

    Args:
        command: its process id, of the keeper.
    """
    found: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys((*MEASURED, "processes"), 0.0))
    for each in processes():
        kind = "command" if each.pid == command else kind_of(each)
        try:
            values = (each.memory_info().rss / 1e6, each.num_fds(), each.num_threads(), 1)
        except psutil.Error:
            continue  # it has ended
        for name, value in zip((*MEASURED, "processes"), values, strict=True):
            found[kind][name] += value
    return dict(found)


def kind_of(process: psutil.Process) -> str:
    """Of `PROCESSES`, or its command's first word."""
    line = command_line(process)
    kinds = [kind for kind, words in PROCESSES.items() if words in line]
    return kinds[0] if kinds else Path(line.split(" ")[0]).name or "?"


def told(records: list[dict[str, Any]], num_steps: int) -> str:
    """A line a kind: what it has at three steps, and what it grows by in 100 steps."""
    if not records:
        return "nothing was measured"
    shown = [min(records, key=lambda record: abs(record["step"] - step)) for step in (50, num_steps // 2, num_steps)]
    at = ", ".join(str(record["step"]) for record in shown)
    rows = []
    for kind in sorted({kind for record in shown for kind in kinds(record)}):
        cells, is_flat = [], True
        for name in MEASURED:
            values = [f"{record[kind][name]:.0f}" if kind in record else "-" for record in shown]
            growth, error = growth_of(records, kind, name)
            allowed = max(FLAT[name], 0.02 * shown[-1].get(kind, {}).get(name, 0.0) if name == "MB" else 0.0)
            is_flat &= not growth - 2 * error > allowed
            cells += [", ".join(values), f"{growth:+.1f} ± {2 * error:.1f}"]
        rows.append([kind, *cells, "yes" if is_flat else "**no**"])
    header = [part for name in MEASURED for part in (f"{name} at {at}", "in 100 steps")]
    lives = len({record["life"] for record in records})
    return f"{len(records)} steps in {lives} lives of the processes\n\n{table(('process', *header, 'flat'), rows)}"


def kinds(record: dict[str, Any]) -> Iterable[str]:
    """The kinds of processes that a record has."""
    return record.keys() - {"step", "life"}


def growth_of(records: list[dict[str, Any]], kind: str, name: str) -> tuple[float, float]:
    """The least-squares slope of what a kind has, in 100 steps, each life with a level of its own; and its error."""
    parts = list(_warm(records, kind, name))
    steps = np.concatenate([steps - steps.mean() for steps, _ in parts] or [np.zeros(0)])
    values = np.concatenate([values - values.mean() for _, values in parts] or [np.zeros(0)])
    freedom = len(steps) - len(parts) - 1
    if freedom < 1:
        return np.nan, np.nan
    slope = (steps @ values) / (steps @ steps)
    error = np.sqrt(((values - slope * steps) ** 2).sum() / freedom / (steps @ steps))
    return 100 * float(slope), 100 * float(error)


def _warm(records: list[dict[str, Any]], kind: str, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _, life in groupby(records, key=lambda record: record["life"]):
        measured = [(record["step"], record[kind][name]) for record in life if kind in record][WARM:]
        if len(measured) > 1:
            steps, values = np.array(measured).T
            yield steps, values


if __name__ == "__main__":
    main()
