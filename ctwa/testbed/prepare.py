"""Make a testbed: data and base model in one folder, once."""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from ctwa.errors import CtwaError
from ctwa.models.libraries import without_progress_bars
from ctwa.run.disk import let_others_read
from ctwa.run.documents import Document
from ctwa.run.dotted import dotted
from ctwa.testbed.bases import Base, shipped_base
from ctwa.testbed.data import check_rows, held_out_rows, train_rows, write_parquet
from ctwa.testbed.evaluate import sample_scores
from ctwa.testbed.presets import Preset, get_preset
from ctwa.testbed.sft import SftConfig, train_base
from ctwa.testbed.tokenizer import build_tokenizer

FORMAT = 2
RECORD = "testbed.json"


@dataclass(frozen=True)
class Prepared:
    """A testbed on disk. ``base_scores`` are the base model's sampled means on the held-out problems."""

    preset: Preset
    root: Path
    base_scores: dict[str, float]

    @property
    def model(self) -> Path:
        """Folder of model and tokenizer, as plain ``transformers`` loads them."""
        return self.root / "model"

    @property
    def train(self) -> Path:
        """Training problems, verl's parquet format."""
        return self.root / "train.parquet"

    @property
    def held_out(self) -> Path:
        """Held-out problems, verl's parquet format."""
        return self.root / "held_out.parquet"


def prepare(
    preset: str | Preset,
    out_dir: Path,
    *,
    seed: int | None = None,
    data_seed: int = 0,
    retrain: bool = False,
    num_threads: int = 1,
    console: Console | None = None,
) -> Prepared:
    """Make the testbed ``preset`` in ``out_dir``, or reuse it where it was made with the same settings.

    The base model is the one that comes with the package, where one was trained with these settings; else it is trained
    here. ``seed`` replaces the preset's seed of the base model's weights and demonstrations; ``data_seed`` draws the
    training and held-out problems; ``retrain`` trains in any case. The folder appears complete or not at all: it is
    built beside its place and then renamed. The bits of a model that is trained here depend on the machine and on
    ``num_threads`` as well, which are therefore recorded, not compared.

    Raises:
        CtwaError: the preset is unknown, or ``out_dir`` holds something else.
    """
    preset = get_preset(preset) if isinstance(preset, str) else preset
    if seed is not None:
        preset = replace(preset, sft_seed=seed)
    out_dir = Path(out_dir)
    console = console or Console()
    sft = sft_config(preset)
    base = None if retrain else shipped_base(training_settings(preset, sft))
    settings = _settings(preset, sft, data_seed, base)

    record = _read_record(out_dir)
    if record is not None:
        if record["settings"] != settings:
            raise CtwaError(
                f"{out_dir} holds a testbed made with other settings ({_difference(record['settings'], settings)}): "
                f"write another folder, or delete this one to make it anew"
            )
        console.print(f"Testbed {preset.name}: reusing {out_dir}", markup=False, emoji=False, highlight=False)
        return Prepared(preset, out_dir, record["base_scores"])

    if base is None:
        console.print(f"Testbed {preset.name}: training its base model, which takes some minutes", highlight=False)
    with _replaced_when_complete(out_dir) as partial:
        base_scores = _make(Prepared(preset, partial, {}), sft, base, settings, num_threads, console)
    told = f"Testbed {preset.name}: base model and data are in {out_dir}"
    console.print(told, markup=False, emoji=False, highlight=False)
    return Prepared(preset, out_dir, base_scores)


def training_settings(preset: Preset, sft: SftConfig) -> dict[str, Any]:
    """What shapes the base model, as JSON reads it back."""
    settings = {
        "sft": asdict(sft),
        "base_accuracy": preset.base_accuracy,
        "first_check": preset.first_check,
        "check_every": preset.check_every,
        "num_check_problems": preset.num_check_problems,
    }
    return json.loads(json.dumps(settings))


def sft_config(preset: Preset) -> SftConfig:
    """The supervised training of a preset's base model."""
    return SftConfig(num_steps=preset.max_sft_steps, seed=preset.sft_seed, mixture=preset.mixture)


def _settings(preset: Preset, sft: SftConfig, data_seed: int, base: Base | None) -> dict[str, Any]:
    """What shapes the folder's content, as JSON reads it back; the settings of later runs are not among it."""
    settings = {
        "format": FORMAT,
        "preset": preset.name,
        "base": "trained here" if base is None else f"shipped, SHA-256 {base.sha256[:12]}",
        **training_settings(preset, sft),
        "data_seed": data_seed,
        "num_train": preset.num_train,
        "num_held_out": preset.num_held_out,
        "budget_base": preset.budget_base,
        "budget_per_operation": preset.budget_per_operation,
    }
    return json.loads(json.dumps(settings))


def _make(
    place: Prepared, sft: SftConfig, base: Base | None, settings: dict[str, Any], num_threads: int, console: Console
) -> dict[str, float]:
    preset, started = place.preset, time.perf_counter()
    held_out = held_out_rows(preset, settings["data_seed"])
    write_parquet(train_rows(preset, settings["data_seed"]), place.train)
    write_parquet(held_out, place.held_out)

    tokenizer = build_tokenizer()
    if base is None:
        model, num_steps = _train(preset, sft, tokenizer, num_threads, console)
        made_with: Mapping[str, Any] = versions(num_threads)
    else:
        model, num_steps, made_with = base.load(), base.num_sft_steps, base.made_with
    with without_progress_bars():
        model.save_pretrained(place.model)
    tokenizer.save_pretrained(place.model)
    let_others_read(place.model)

    base_scores = sample_scores(model, tokenizer, held_out)
    console.print(
        f"Base model after {num_steps} steps, on {len(held_out)} held-out problems, sampled: "
        + ", ".join(f"{name} {value:.3g}" for name, value in base_scores.items()),
        highlight=False,
    )
    record = {
        "settings": settings,
        "base_scores": base_scores,
        "num_sft_steps": num_steps,
        "seconds": round(time.perf_counter() - started, 1),
        "made_with": made_with,
    }
    (place.root / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return base_scores


def versions(num_threads: int) -> dict[str, Any]:
    """What a training's last bits depend on beside its settings."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "num_threads": num_threads,
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }


def _train(
    preset: Preset, sft: SftConfig, tokenizer: PreTrainedTokenizerBase, num_threads: int, console: Console
) -> tuple[Qwen2ForCausalLM, int]:
    """Train until the preset's accuracy is reached, with a progress bar; also the number of steps it took."""
    check = check_rows(preset)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            f"Base model of testbed {preset.name}",
            total=preset.usual_sft_steps,
            step=0,
            loss=float("nan"),
            accuracy="-",
        )

        def on_step(step: int, loss: float) -> None:
            progress.update(task, completed=step, step=step, loss=loss)

        def stop(step: int, model: Qwen2ForCausalLM) -> bool:
            if step < preset.first_check or step % preset.check_every:
                return False
            accuracy = sample_scores(model, tokenizer, check)["accuracy"]
            progress.update(task, accuracy=f"{accuracy:.2f} of {preset.base_accuracy:.2f}")
            return accuracy >= preset.base_accuracy

        model = train_base(sft, num_threads=num_threads, on_step=on_step, stop=stop)
        num_steps = progress.tasks[0].fields["step"]
    return model, num_steps


def _read_record(out_dir: Path) -> dict[str, Any] | None:
    """The record of a finished testbed, None where there is nothing yet."""
    if (out_dir / RECORD).is_file():
        record = Document(out_dir / RECORD, "write another folder, or delete this one to make it anew")
        record.get("settings")
        return record.content
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise CtwaError(f"{out_dir} exists and is not a testbed: write a folder that is new or empty")
    return None


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first setting that differs, in the order of :func:`_settings`."""
    old, new = dotted(found), dotted(wanted)
    key = next(key for key in new | old if old.get(key) != new.get(key))
    return f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"


@contextmanager
def _replaced_when_complete(out_dir: Path) -> Iterator[Path]:
    partial = out_dir.parent / f".{out_dir.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)  # a killed process may have had the same number
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
