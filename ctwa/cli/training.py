"""The commands that train, and those that prepare for it: projects, machines, settings."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from typer.core import TyperCommand

from ctwa.cli.command import COMMAND_LINE, UNBROKEN, app, run
from ctwa.run.alarms import KINDS

if TYPE_CHECKING:
    from ctwa.engine.recorder import Stop

SETTINGS = (
    "Settings, e.g. method=linear ctwa.run=runs/linear trainer.total_training_steps=60, in Hydra's syntax; and YAML "
    "files of settings, or the config.yaml of a run."
)
STOP_ON = (
    "End the run, with a checkpoint and exit status 3, when this alarm is raised. May be given several times: "
    + ", ".join(KINDS)
)


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    """What a shell may complete of the settings of a command."""
    from ctwa.engine.complete import words

    return words(ctx.info_name or "", ctx.params.get("settings") or [], incomplete)


def _complete_name(incomplete: str) -> list[str]:
    """What a shell may complete of the name of a method or a loss."""
    from ctwa.engine.complete import methods_and_losses

    return methods_and_losses(incomplete)


Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.yaml] [KEY=VALUE]...", help=SETTINGS, autocompletion=_complete),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and the plan; start nothing.")
]
StopOn = Annotated[list[str] | None, typer.Option(metavar="ALARM", help=STOP_ON)]
MaxRestarts = Annotated[
    int,
    typer.Option(
        min=0,
        help="Resume a run that fails, from its newest checkpoint, at most so often, with growing pauses; not a third "
        "time after the same step.",
    ),
]


class _WithGroups(TyperCommand):
    """A command whose help ends with the groups of its configuration, which are looked for when it is asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the groups with their choices."""
        del ctx
        from ctwa.engine.choices import default_choices
        from ctwa.engine.groups import groups_of

        assert self.name is not None
        choices = groups_of(self.name)
        with formatter.section("Groups, each with its default"):
            formatter.write_dl(
                [(f"{group}={name}", ", ".join(choices[group])) for group, name in default_choices(self.name).items()]
            )


class Command(StrEnum):
    """The commands that train."""

    train = "train"
    prefer = "prefer"
    caid = "caid"


class Training(NamedTuple):
    """A command that trains: the class of its job, and its help."""

    job: str
    help: str


TRAININGS = {
    Command.train: Training(
        "ctwa.engine.train_job:TrainJob",
        """Fine-tune a model on several objectives; `ctwa methods` says what the methods are.

        Several methods (method=linear,guard) make a run each in the folder ctwa.run, one after another on one engine.
        """,
    ),
    Command.prefer: Training(
        "ctwa.engine.prefer_job:PreferJob",
        "Align a model with several objectives' preference pairs, without a reward model (docs/preference.md).",
    ),
    Command.caid: Training(
        "ctwa.engine.caid_job:CaidJob",
        """Align a model under constraints by iterated dualization (docs/caid.md).

        E.g. ctwa caid ctwa.run=runs/caid ctwa.task_dir=runs/testbed-D 'ctwa.caid.thresholds={accuracy:0.05}'.
        """,
    ),
}


def _train(
    context: typer.Context,
    settings: Arguments = None,
    dry_run: DryRun = False,
    stop_on: StopOn = None,
    max_restarts: MaxRestarts = 0,
) -> None:
    """Run the job of a command, whose imports take a while; where a user has typed it in a process of its own."""
    command = Command(context.info_name or "")

    def work(settings: Sequence[str]) -> None:
        def start() -> Stop | None:
            from ctwa.engine.job import execute
            from ctwa.engine.several import methods_of, train_each

            if command == Command.train and (methods := methods_of(settings)):
                return train_each(methods, settings, stop_on=stop_on or [], dry_run=dry_run)
            return execute(resolve_name(TRAININGS[command].job), settings, stop_on=stop_on or [], dry_run=dry_run)

        run(start)

    if dry_run or context.obj is not COMMAND_LINE:
        work(settings or [])
        return
    from ctwa.engine.keeper import keep

    say = partial(Console(stderr=True).print, style="bold red", soft_wrap=True, highlight=False)
    sys.exit(keep(work, settings or [], max_restarts=max_restarts, say=say))


for _command, _training in TRAININGS.items():
    app.command(
        _command.value, cls=_WithGroups, help=_training.help, context_settings={"ignore_unknown_options": True}
    )(_train)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make it in.")],
    recipes: Annotated[
        bool, typer.Option("--recipes", help="Put ctwa's recipes and reward functions there too, to use and to change.")
    ] = False,
) -> None:
    """Make a small project of your own that runs as it stands: rewards with a test, data, settings, a script."""
    from ctwa.starter.make import NEXT, make_project

    made = make_project(folder, recipes=recipes)
    print(f"made in {folder}: {', '.join(map(str, made))}\n\n{NEXT.format(folder=shlex.quote(str(folder)))}")


@app.command(context_settings={"ignore_unknown_options": True})
def doctor(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE.yaml] [KEY=VALUE]...", help="Of `ctwa train`: an engine, or all of a run."),
    ] = None,
    ask_hub: Annotated[bool, typer.Option("--hub", help="Ask whether the hub of models answers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Look at the machine and what is installed: what would make a run fail, before it fails; then exit status 1.

    E.g. ctwa doctor engine=gpu. With the settings of a run it makes the checks of a dry run, too.
    """
    from ctwa.doctor import findings
    from ctwa.engine.doctor import examine

    found = examine(settings or [], ask_hub=ask_hub)
    print(json.dumps(findings.as_json(found), indent=2) if as_json else findings.text(found))
    sys.exit(any(each.level == "fail" for each in found))


@app.command(context_settings={"ignore_unknown_options": True})
def plan(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE.yaml] [KEY=VALUE]...", help="Of the command.")
    ] = None,
    of: Annotated[Command, typer.Option(help="Whose run is meant.")] = Command.train,
    gpus: Annotated[
        str, typer.Option(metavar="[NODESx]NUMBERxTYPE", help="What it is to run on, e.g. 8xH100 or 4x8xH100.")
    ] = "8xH100",
    response: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Tokens of a response as expected (of `ctwa prefer` with its prompt), for time and bytes; default: "
            "all there may be.",
        ),
    ] = None,
    compute: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the GPUs' bf16 operations that passes reach.")
    ] = 0.4,
) -> None:
    """Say what a run takes of GPUs that need not be there: memory by part, bytes, passes, time; and what does not fit.

    It reads the settings and the model's config.json: no data, no weights, no network. The exit status is 1 where the
    run does not fit. E.g. ctwa plan --gpus 8xH100 task=math500 method=mgda actor_rollout_ref.model.path=FOLDER;
    ctwa plan --of prefer task=custom with objectives of your own.
    """
    from ctwa.capacity.seconds import Rates
    from ctwa.engine.gpu_plan import make_plan

    text, fits = make_plan(settings or [], gpus, command=of.value, mean_tokens=response, rates=Rates(compute=compute))
    print(text)
    sys.exit(not fits)


@app.command()
def config(
    key: Annotated[
        str | None, typer.Argument(help="A key or the end of one, a section, or a group; none: list what there is.")
    ] = None,
    of: Annotated[Command, typer.Option(help="Whose configuration is meant.")] = Command.train,
) -> None:
    """Explain a key of the configuration: its meaning, what it may be, its default; e.g. ctwa config lr."""
    from ctwa.engine.explain import explain, overview

    print(overview(of.value) if key is None else explain(key, of.value))


@app.command()
def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="A method or a loss: print what it is, costs and takes.", autocompletion=_complete_name),
    ] = None,
) -> None:
    """List the methods and losses: what each does, and what a step costs beyond one with fixed weights."""
    from ctwa.listing import describe, tables

    if name is not None:
        print(describe(name))
        return
    # One line each where the output goes to a file or a pipe.
    console = Console(width=None if sys.stdout.isatty() else UNBROKEN)
    for title, table in tables():
        console.print(title, table, sep="\n", end="\n\n")
