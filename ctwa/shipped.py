"""Where the files are that come with ctwa and are no part of the package: reward functions and recipes."""

from pathlib import Path


def shipped_folder() -> Path:
    """The folder that holds ``reward_fns`` and ``recipes``: the package of a wheel, the root of a clone."""
    package = Path(__file__).resolve().parent
    return package if (package / "reward_fns").is_dir() else package.parent
