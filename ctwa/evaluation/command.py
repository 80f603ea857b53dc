"""``ctwa eval``: from the command line to tables and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ctwa.errors import CtwaError
from ctwa.evaluation.config import read_config
from ctwa.evaluation.evaluate import evaluate
from ctwa.evaluation.results import results_text
from ctwa.evaluation.runs import Choice, config_of


def run(
    targets: Sequence[str],
    out: Path | None,
    *,
    task_dir: Path | None,
    limit: int | None,
    num_samples: int | None,
    seed: int,
    trust: bool,
    choice: Choice,
    say: Callable[[str], None],
) -> None:
    """Evaluate, show, and say where the files are.

    Raises:
        CtwaError: as :func:`ctwa.evaluation.evaluate.evaluate`, and for a YAML file together with other targets.
    """
    targets = targets or choice.targets
    if not targets:
        raise CtwaError("there is nothing to evaluate; give a run, a model or the YAML file of an evaluation")
    first = Path(targets[0])
    if first.suffix in (".yaml", ".yml"):
        given: dict[str, Any] = {
            "--task-dir": task_dir,
            "--limit": limit,
            "--num-samples": num_samples,
            "--seed": seed or None,
        }
        given |= {"--weights": choice.weights or None, "--expert": choice.experts or None}
        extra = [*targets[1:], *(option for option, value in given.items() if value is not None)]
        if extra:
            raise CtwaError(f"{first} says all of an evaluation, and {', '.join(extra)} came with it; write it there")
        config = read_config(first)
    else:
        config = config_of(
            targets, task_dir=task_dir, limit=limit, num_samples=num_samples, seed=seed, trust=trust, choice=choice
        )
    out = out or default_folder(first)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            is_new = label not in tasks
            if is_new:
                tasks[label] = bars.add_task(label, total=total)
            if not console.is_terminal and (is_new or done == total):  # where no bar is drawn, its ends are told
                console.print(f"{label}: {done} of {total}", markup=False, highlight=False, soft_wrap=True)
            bars.update(tasks[label], completed=done, total=total)

        results = evaluate(config, out, show)
    say(results_text(results))
    files = ["results.json", *(name for name in ("samples.jsonl", "judgements.jsonl") if (out / name).is_file())]
    say(f"\n{', '.join(files)}: in {out}")


def default_folder(first: Path) -> Path:
    """Where the results of an evaluation go, by the first that it is of: every run has a step 50."""
    place = first.absolute()
    if place.parent.name == "checkpoints":
        name = f"{place.parent.parent.name}-{place.name}"
    else:
        name = place.stem if place.suffix else place.name
    return Path("runs") / f"eval-{name}"
