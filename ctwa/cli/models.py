"""The commands that make a model of models, and measure models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ctwa.cli.command import app, by_name, to_folder
from ctwa.errors import CtwaError

LARGEST = 1e6
"""Of a weight: sums of such weights, and their squares, are finite."""


@app.command()
def merge(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL=WEIGHT...", help="Folders of models, runs or LoRA adapters.")
    ],
    out: Annotated[Path, typer.Option(callback=to_folder, help="The folder of the merged model; it must not exist.")],
) -> None:
    """Merge models that began as the same one, by weights of which only the ratios matter: Rewarded Soups.

    E.g. ctwa merge runs/helpful=0.3 runs/harmless=0.7 --out runs/soup. A run stands for the checkpoint that early
    stopping kept, else for its newest complete one.
    """
    from ctwa.models.adapter import ADAPTER_CONFIG
    from ctwa.models.locate import locate
    from ctwa.models.merging import merge_folders

    weights: dict[str, float] = {}
    for each in models:
        model, _, weight = each.rpartition("=")
        try:
            number = float(weight)
        except ValueError:
            number = math.nan
        if not model or math.isnan(number):
            raise CtwaError(f"{each} is no model with a weight; write e.g. runs/helpful=0.3")
        if abs(number) > LARGEST:
            raise CtwaError(f"{each}: a weight is at most {LARGEST:g}; only the ratios matter, so write smaller ones")
        if model in weights:
            raise CtwaError(f"{model} is there twice; give each model once")
        weights[model] = number
    adapters = {model for model in weights if (Path(model) / ADAPTER_CONFIG).is_file()}
    folders = {model: Path(model if model in adapters else locate(model)) for model in weights}
    for model, folder in folders.items():
        if twice := next((name for name in folders if name != model and folders[name].samefile(folder)), None):
            raise CtwaError(f"{model} and {twice} are one model; give each model once")
    merge_folders(folders, weights, out)
    print(f"merged: {out}")


@app.command("eval")
def evaluate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG.yaml | MODEL...",
            help="An evaluation's YAML file (docs/eval.md); or runs, checkpoints and models.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(callback=to_folder, help="The folder for the results; default: runs/eval-<name of the first>."),
    ] = None,
    task_dir: Annotated[
        Path | None,
        typer.Option(help="A testbed, or prompts of `ctwa instructions make`; default: the first run's task."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many prompts (not with a YAML file).")] = None,
    num_samples: Annotated[
        int | None, typer.Option(min=1, help="Completions of each prompt (not with a YAML file).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the completions (not with a YAML file).")] = 0,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the reward functions that a run names, though somebody else made it.")
    ] = False,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=W,NAME=W,...",
            help="Weights of the objectives, for conditioned runs and experts; several --weights make a front.",
        ),
    ] = None,
    expert: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OBJECTIVE=MODEL", help="A run or model trained on one objective, to be combined by weights."
        ),
    ] = None,
    combine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="mod | soup", help="How: probabilities mixed at every token, or models merged; by default both."
        ),
    ] = None,
) -> None:
    """Evaluate models: rewards of completions, preference losses, perplexity, an LLM judge, with intervals.

    A run stands for the checkpoint that early stopping kept, else for its newest complete one, and is compared with the
    model its training began with.
    """
    from ctwa.evaluation.command import run
    from ctwa.evaluation.runs import Choice

    run(
        targets or [],
        out,
        task_dir=task_dir,
        limit=limit,
        num_samples=num_samples,
        seed=seed,
        trust=trust,
        choice=Choice.read(
            weights or [],
            by_name("--expert", expert or [], "an objective with its model, e.g. accuracy=runs/accuracy"),
            combine or [],
        ),
        say=print,
    )
