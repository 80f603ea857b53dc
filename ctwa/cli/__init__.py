"""The command ``ctwa``. Its commands are listed by ``--help`` in the order of the imports here."""

import ctwa.engine.process  # noqa: F401 - before all that takes long to import

# isort: off
from ctwa.cli import training, results, models, checkpoints, data, materials, from_verl  # noqa: F401 - each adds its commands
from ctwa.cli.command import app, main, run

__all__ = ["app", "main", "run"]
