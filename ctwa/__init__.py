"""ctwa: fine-tune a language model on several objectives without letting the easy ones crowd out the hard ones."""

from importlib.metadata import version

__version__ = version("ctwa")
