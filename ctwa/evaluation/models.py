"""The models of an evaluation: where they are, their tokenizers, and their weights once something needs them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ctwa.errors import CtwaError, one_line
from ctwa.models.libraries import without_progress_bars
from ctwa.models.locate import locate
from ctwa.models.look import look_at_model
from ctwa.models.onednn import pack_weights, prefers_onednn
from ctwa.models.size import is_small
from ctwa.models.source import Source
from ctwa.preference.reference import model_fingerprint


class Model:
    """A model of an evaluation; nothing is read before it is asked for.

    Args:
        name: what the evaluation calls it.
        source: as :func:`locate` takes it.
        device: `auto`, `cpu` or `cuda`.
        dtype: `auto`, or a torch type's name.
        trust_remote_code: as transformers has it.

    Raises:
        CtwaError: there is no such model.
    """

    def __init__(
        self, name: str, source: str, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
    ) -> None:
        self.name = name
        self.source = source
        self.location = locate(source)
        if device == "cuda" and not torch.cuda.is_available():
            raise CtwaError("device is cuda and there is no GPU that torch sees; write device: cpu")
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        # Half precision is slow on most CPUs, and float32 holds every weight that it holds.
        self.dtype = "float32" if dtype == "auto" and self.device == "cpu" else dtype
        self.trust_remote_code = trust_remote_code
        self._weights: Any = None

    @cached_property
    def config(self) -> Any:
        """The model's config.

        Raises:
            CtwaError: it cannot be read, or the hub has no such model.
        """
        return self._load(AutoConfig, "config")

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            CtwaError: it cannot be read.
        """
        return self._load(AutoTokenizer, "tokenizer")

    @cached_property
    def fingerprint(self) -> str:
        """A text that another model has not: of the files' content, or the hub's commit."""
        if isinstance(self.location, Path):
            return model_fingerprint(self.location)
        return f"{self.location}@{self.config._commit_hash}"

    @property
    def context(self) -> int | None:
        """The longest sequence, in tokens; None where the config does not say."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    @property
    def weights(self) -> Any:
        """The model itself, on its device, to be evaluated."""
        if self._weights is None:
            with without_progress_bars():
                self._weights = self._load(AutoModelForCausalLM, "weights", dtype=self.dtype).to(self.device).eval()
            if self.device == "cpu" and prefers_onednn() and not is_small(str(self.location)):
                pack_weights(self._weights)  # of float32 alone
        return self._weights

    @property
    def loads(self) -> tuple[Model, ...]:
        """The models whose weights are in memory where this one's are used."""
        return (self,)

    def read(self, prompt: Any) -> Any:
        """A prompt as this model is given it: messages, or a text."""
        return prompt

    def look(self) -> None:
        """See that its config and weights fit, by the headers of the files.

        Raises:
            CtwaError: they do not, or the model is not to be had.
        """
        look_at_model(Source(str(self.location), f"model '{self.name}' ({self.source})", self.trust_remote_code))

    def release(self) -> None:
        """Give its memory back."""
        self._weights = None
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _load(self, loader: Any, what: str, **options: Any) -> Any:
        try:
            return loader.from_pretrained(self.location, trust_remote_code=self.trust_remote_code, **options)
        except (OSError, ValueError) as error:
            raise CtwaError(
                f"the {what} of model '{self.name}' ({self.source}) cannot be loaded: {one_line(error, 300)}"
            ) from error
