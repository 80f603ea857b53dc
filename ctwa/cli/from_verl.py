"""``ctwa from-verl``: the settings of a verl run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctwa.cli.command import app, to_file


@app.command(context_settings={"ignore_unknown_options": True})
def from_verl(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE.yaml] [KEY=VALUE]...",
            help="What follows `python -m verl.trainer.main_ppo`; YAML files of it.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Write a file for `ctwa train`; without it, print it.")
    ] = None,
) -> None:
    """Translate a verl run into settings of `ctwa train` (docs/verl.md).

    Every key that does not stay as it is has a line that says so.
    """
    from ctwa.engine.from_verl import translate, write

    made = translate(settings)
    if out is None:
        print(made.text(), end="")
        return
    write(made, to_file(out) or out)
    run = "" if "ctwa.run" in made.settings else " ctwa.run=runs/first"
    print("\n".join([*made.notes, "", f"made {out}. Look at it, then: ctwa train {out}{run} --dry-run"]))
