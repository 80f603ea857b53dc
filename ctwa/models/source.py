"""A model as the user names it: a folder, or a name on the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ctwa.errors import CtwaError, neighbour

HUB_TIMEOUT = 2.0  # s


@dataclass(frozen=True)
class Source:
    """A model as the user names it.

    Attributes:
        name: a folder, or a name on the hub.
        key: what names it: the key of a config.
        trust_remote_code: as transformers has it.
    """

    name: str
    key: str
    trust_remote_code: bool = False

    def error(self, what: str) -> CtwaError:
        """A mistake of the model, told with its key and name."""
        return CtwaError(f"{self.key}: {self.name} {what}")

    def local(self) -> Path | None:
        """The folder that is named; None for a name on the hub.

        Raises:
            CtwaError: there is no such folder.
        """
        path = Path(self.name).expanduser()
        if path.is_dir():
            return path
        if path.is_file():
            raise self.error(f"is a file; give the folder it is in: {path.parent}")
        if self.name.startswith(("/", ".", "~")) or self.name.count("/") > 1:
            raise self.error(f"does not exist; give a model folder or a model's name on a hub{neighbour(path)}")
        return None

    def folder(self, *, ask: bool = True) -> Path | None:
        """Where the model lies: its folder, or that of the hub's downloads; None where it has to be downloaded yet.

        Args:
            ask: see that the hub has a model that is not here.

        Raises:
            CtwaError: there is no such folder, or the hub has no such model or does not answer.
        """
        return self.local() or self._downloaded(ask=ask)

    def _downloaded(self, *, ask: bool) -> Path | None:
        from huggingface_hub import constants, try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

        try:
            config = try_to_load_from_cache(self.name, "config.json")
        except HFValidationError as error:
            raise self.error("is neither a folder nor a name on a hub; give one of these") from error
        if isinstance(config, str):
            return Path(config).parent
        if not ask or os.environ.get("VERL_USE_MODELSCOPE", "").lower() == "true":  # verl's switch to another hub
            return None
        near = neighbour(Path(self.name))
        what = "is neither a folder nor among the downloads, and "
        if constants.HF_HUB_OFFLINE:
            raise self.error(what + "HF_HUB_OFFLINE is set; download it first (hf download), or give a folder" + near)
        try:
            ask_hub(self.name)
        except RepositoryNotFoundError as error:
            raise self.error(what + "the hub has no such model, or not for you; give another name" + near) from error
        except Exception as error:  # whatever its HTTP client raises
            raise self.error(
                what
                + f"the hub does not answer ({type(error).__name__}); connect, download it first (hf download), or "
                "give a folder" + near
            ) from error
        return None


def ask_hub(name: str) -> None:
    """Ask whether the hub has a model."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=HUB_TIMEOUT)
