"""The command that looks after a run's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctwa.cli.command import app, to_folder
from ctwa.errors import CtwaError
from ctwa.models.dtypes import Dtype

if TYPE_CHECKING:
    from ctwa.models.checkpoints import Checkpoint
    from ctwa.models.hub import Destination
    from ctwa.run.folder import RunFolder


@app.command()
def checkpoints(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte, and compare it with what was saved.")] = (
        False
    ),
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Remove all but so many of the newest whole ones, and the one that early stopping kept."
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(callback=to_folder, help="Write a checkpoint's plain model into this folder, with a model card."),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Of which step, for --export; default: the one that `ctwa eval` takes.")
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Let --export write a LoRA run's adapter alone, as PEFT loads it.")
    ] = False,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of the tensors that --export writes; default: as they were saved.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Put what --export writes on the hub of models, for your eyes alone if it is new.",
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see what --push makes anew.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what --export and --push would write.")] = False,
) -> None:
    """List the checkpoints of a run; verify, prune or export them.

    The exit status of --verify is 1 where one is damaged.
    """
    from ctwa.run.folder import RunFolder, refuse_several

    if export is None and (step is not None or dtype is not None or adapter or push is not None or dry_run):
        raise CtwaError("--step, --adapter, --dtype, --push and --dry-run are of --export: write also --export FOLDER")
    if dry_run and keep is not None:
        raise CtwaError("--dry-run writes nothing, and --keep removes: ask for them one after the other")
    if public and push is None:
        raise CtwaError("--public is of --push: write also --push OWNER/NAME")
    folder = RunFolder(run)
    if not folder.checkpoints.is_dir():
        refuse_several(run)
        raise CtwaError(f"{run} holds no run (no checkpoints in it): give the folder of a run that has begun")
    if export is not None:
        from ctwa.models.hub import Destination

        destination = None if push is None else Destination.check(push, private=not public)
        _export(folder, export, step, dtype, adapter=adapter, destination=destination, dry_run=dry_run)
    if keep is not None:
        _prune(folder, keep)
    if export is None or verify:
        _list(folder, verify)


def _list(folder: RunFolder, verify: bool) -> None:
    from ctwa.models.checkpoints import list_checkpoints
    from ctwa.run.text import clean

    found = list_checkpoints(folder.checkpoints, verify=verify)
    for each in found:
        print(clean(_line(each)))  # a downloaded seal names what it likes
    if not found:
        print("no checkpoint yet")
    if verify and any(each.state == "damaged" for each in found):
        raise typer.Exit(1)


def _line(checkpoint: Checkpoint) -> str:
    said = {
        "whole": "whole: every byte is what was saved",
        "complete": "complete, by the sizes of its files",
        "damaged": f"damaged: {', '.join(checkpoint.damaged)}",
        "unfinished": "unfinished: not saved to its end",
    }[checkpoint.state]
    best = "; early stopping kept it" if checkpoint.is_best else ""
    return f"{checkpoint.folder.name:<20} {checkpoint.size / 1e6:>10,.1f} MB  {said}{best}"


def _prune(folder: RunFolder, keep: int) -> None:
    from ctwa.models.checkpoints import best_step, prune
    from ctwa.models.seal import damaged_files
    from ctwa.run.lock import is_held

    if is_held(folder.metrics):
        raise CtwaError(f"the run in {folder.path} goes on, and prunes by itself: trainer.max_actor_ckpt_to_keep")
    removed = prune(
        folder.checkpoints, keep=keep, spare=best_step(folder.checkpoints), counts=lambda each: not damaged_files(each)
    )
    print(f"removed: {', '.join(removed)}" if removed else "removed: nothing")


def _export(
    folder: RunFolder,
    out: Path,
    step: int | None,
    dtype: Dtype | None,
    *,
    adapter: bool,
    destination: Destination | None,
    dry_run: bool,
) -> None:
    from ctwa.evaluation.runs import conditioning_of
    from ctwa.models.export import Export
    from ctwa.models.locate import step_of
    from ctwa.report.card import model_card
    from ctwa.report.markdown import base_name
    from ctwa.report.trace import read_runs

    checkpoint = _chosen(folder, step)
    run = read_runs([folder.path])[0]
    told = conditioning_of(folder.path)
    card = model_card(
        run,
        step_of(checkpoint),
        is_adapter=adapter,
        template=None if told is None else told.template,
    )
    base = "" if run.info is None else base_name(run.info.model)
    export = Export(checkpoint, out, card=card, dtype=dtype, adapter_of=base if adapter else None, conditioning=told)
    if dry_run:
        for name, size in export.files().items():
            print(f"would write: {name}, {size / 1e6:,.1f} MB")
        if destination is not None:
            kind = "private" if destination.private else "public"
            print(f"would push: these files to {destination.address}, {kind} if new")
        return
    export.write()
    print(f"exported: {checkpoint.name} to {out}")
    if destination is not None:
        print(f"pushed: {destination.push(out)}")


def _chosen(folder: RunFolder, step: int | None) -> Path:
    """The checkpoint of a step; of none the one that early stopping kept, else the newest complete one."""
    from ctwa.models.checkpoints import best_step
    from ctwa.models.locate import newest_complete, step_folder

    if step is None:
        step = best_step(folder.checkpoints)
    checkpoint = newest_complete(folder.checkpoints) if step is None else step_folder(folder.checkpoints, step)
    if checkpoint is None:
        raise CtwaError(f"{folder.path} has no complete checkpoint yet: let its run go on to one")
    if not checkpoint.is_dir():
        raise CtwaError(f"{folder.path} has no such checkpoint: `ctwa checkpoints {folder.path}` lists them")
    return checkpoint
