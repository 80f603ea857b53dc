"""ctwa: fine-tune a language model on several objectives without letting the easy ones crowd out the hard ones."""

from importlib.metadata import version
from typing import Final

__version__ = version("ctwa")

NOT_APPLICABLE: Final = "not_applicable"
"""What a reward function returns for a completion that its objective does not apply to (docs/rewards.md)."""
