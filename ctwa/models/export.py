"""A checkpoint's plain model, or its adapter alone, as a folder of its own, to give to others."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open
from safetensors.torch import save_file

from ctwa.errors import CtwaError
from ctwa.models.adapter import ADAPTER
from ctwa.models.conditioned import CONDITIONED, Conditioned
from ctwa.models.dtypes import Dtype
from ctwa.models.seal import damaged_files, read_seal
from ctwa.run.disk import let_others_read

_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Export:
    """A checkpoint's model that is to be a folder of its own, with its tokenizer.

    Making one looks at what is there; :meth:`write` sees to it that every byte is what was saved.

    Attributes:
        checkpoint: a step's folder.
        out: the new folder; it appears when all of it is there.
        card: the text of its README.md.
        dtype: what its tensors of fractions are to be; as they are by default. To bfloat16 and float16 they are
            rounded to the nearest.
        adapter_of: the model that the run began with: its adapter alone is copied, as PEFT loads it. None for the
            whole model, in which the adapter is merged.
        conditioning: how its prompts are told weights; None where they are told none.

    Raises:
        CtwaError: the folder exists; the checkpoint has no model or no adapter.
    """

    checkpoint: Path
    out: Path
    card: str
    dtype: Dtype | None = None
    adapter_of: str | None = None
    conditioning: Conditioned | None = None

    def __post_init__(self) -> None:
        if self.out.exists():
            raise CtwaError(f"{self.out} exists already: give another folder")
        if self.adapter_of is not None and not self._model.is_dir():
            raise CtwaError(
                f"{self.checkpoint} has no adapter of its own: its run trained all weights; leave --adapter out for "
                "the whole model"
            )
        if not any(self._model.glob("*.safetensors")):
            raise CtwaError(
                f"{self.checkpoint} has no plain model: save one with the default of "
                "actor_rollout_ref.actor.checkpoint.save_contents, [model,optimizer,extra,hf_model]"
            )

    @property
    def _model(self) -> Path:
        return self.checkpoint / "actor" / ("huggingface" if self.adapter_of is None else ADAPTER)

    def files(self) -> dict[str, int]:
        """What the folder will have, with the bytes of what is there already: of another dtype there are others."""
        found = {name: (self._model / name).stat().st_size for name in self._saved()}
        return found | {name: len(text.encode()) for name, text in self._beside().items()}

    def write(self) -> None:
        """Make the folder.

        Raises:
            CtwaError: the checkpoint is damaged.
        """
        if damaged := damaged_files(self.checkpoint):
            raise CtwaError(f"{self.checkpoint} is not what was saved ({', '.join(damaged[:3])}): export another step")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{self.out.name}-", dir=self.out.parent) as scratch:
            made = Path(scratch) / self.out.name
            for name in self._saved():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._model / name, made / name)
            if self.dtype is not None:
                _convert(made, self.dtype)
            if self.adapter_of is not None:
                _update(made / "adapter_config.json", {"base_model_name_or_path": self.adapter_of})
            for name, text in self._beside().items():
                (made / name).write_text(text)
            let_others_read(made)
            made.rename(self.out)

    def _saved(self) -> list[str]:
        """The model's files that were saved with it. Others, or links to any file here, are not for others to have."""
        inside = f"{self._model.relative_to(self.checkpoint)}/"
        saved = [name for name in read_seal(self.checkpoint) or {} if name.startswith(inside)]
        place = self.checkpoint.resolve()
        for name in saved:
            if not (self.checkpoint / name).resolve().is_relative_to(place):
                raise CtwaError(
                    f"{self.checkpoint / name} leads to another folder, and what is there may not be for others to "
                    "have: put the file itself in its place"
                )
        return [name.removeprefix(inside) for name in saved]

    def _beside(self) -> dict[str, str]:
        """The files that are ours."""
        told = (
            {} if self.conditioning is None else {CONDITIONED: json.dumps(asdict(self.conditioning), indent=2) + "\n"}
        )
        return {"README.md": self.card, **told}


def _convert(model: Path, dtype: Dtype) -> None:
    import torch

    wanted = getattr(torch, dtype)
    total = 0
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        tensors = {name: each.to(wanted) if each.is_floating_point() else each for name, each in tensors.items()}
        total += sum(each.numel() * each.element_size() for each in tensors.values())
        save_file(tensors, path, metadata={"format": "pt"})
    if (config := model / "config.json").is_file():  # an adapter has another
        _update(config, {"dtype": dtype})
    if (index := model / _INDEX).is_file():
        content = json.loads(index.read_text())
        content["metadata"] = {**content.get("metadata", {}), "total_size": total}
        index.write_text(json.dumps(content, indent=2) + "\n")


def _update(config: Path, changes: dict[str, str]) -> None:
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}, indent=2) + "\n")
