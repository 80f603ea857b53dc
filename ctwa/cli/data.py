"""The commands on data and rewards."""

from __future__ import annotations

import json
import math
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ctwa.cli.command import UNBROKEN, app, to_file
from ctwa.errors import CtwaError

if TYPE_CHECKING:
    from ctwa.data.settings import DataSettings

ColumnsOption = Annotated[
    str | None,
    typer.Option(help="Which columns are what: '{prompt: question, ground_truth: answer}'; default: by their names."),
]
AnswerOption = Annotated[
    str | None,
    typer.Option(help="How the ground truth is taken out of its column: as_is, hashes (####), boxed or last_number."),
]
BadRowsOption = Annotated[str, typer.Option(help="stop, or skip: rows that cannot be used.")]


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
    bad_rows: BadRowsOption = "stop",
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
    from ctwa.run.text import clean_lines

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
        from ctwa.models.look import look_at_tokenizer
        from ctwa.models.source import Source

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
        print(clean_lines(line))  # rows that were downloaded hold what they like


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
    settings: DataSettings = validated(DataSettings, {"columns": named, **given}, spelled=_option)
    return settings


def _option(key: str) -> str:
    """How the option of a key of the settings is written."""
    return f"--{key.replace('_', '-')}"


@app.command()
def pairs(
    samples: Annotated[
        Path, typer.Argument(metavar="EVALUATION", help="The folder of a `ctwa eval`, or samples.jsonl.")
    ],
    out: Annotated[Path, typer.Option(callback=to_file, help="The parquet file to write.")],
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
    key: Annotated[
        list[str] | None,
        typer.Option(help="What to take of a dict that the function returns. May be given several times."),
    ] = None,
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
    bad_rows: BadRowsOption = "stop",
) -> None:
    """Run reward functions on a data set's rows, before any training: values, failures and time; with several responses
    to a row also what they would teach: spread within prompts, conflicts between the rewards, covariance targets.
    """
    from ctwa.objectives.check_command import main
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
            settings=_row_settings(columns=columns, answer=answer, bad_rows=bad_rows),
            responses=responses,
            texts=text or [],
            sample=sample,
            limit=limit or (20 if model is None else 8),
            keys=key or [],
            kwargs=arguments,
            timeout=timeout,
            reference_tokens=reference_tokens,
            tokenize=tokenize,
            moment=Moment(split.value, step, progress),
            attacked=attack,
        )
    )
