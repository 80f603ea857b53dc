"""What the corpus breaks: a run, an evaluation, data and a model as ctwa leaves them, each small and good."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from ctwa.models.locate import BEST, step_folder
from ctwa.models.seal import seal
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.jsonl import SCHEMA
from ctwa.run.trace import EventWriter, SampleWriter, TraceWriter
from ctwa.testbed.model import build_model
from ctwa.testbed.tokenizer import build_tokenizer

STEPS = range(1, 5)
NAMES = ("accuracy", "clarity")


def save_model(folder: Path, seed: int = 0) -> None:
    """An untrained model of the testbed's size."""
    build_model(seed).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def make_world(place: Path) -> None:
    """Make ``run``, ``other`` (another seed), ``model``, ``eval`` and ``data.jsonl`` in a folder."""
    save_model(place / "model")
    rows = [{"question": f"Compute mod 10 : {number} + 1 ?", "answer": str(number + 1)} for number in range(8)]
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, seed in (("run", 0), ("other", 1)):
        _make_run(place, name, seed)
    _make_evaluation(place / "eval")


def _make_run(place: Path, name: str, seed: int) -> None:
    info = RunInfo(
        method="ctwa",
        objectives={each: ObjectiveInfo(weight=0.5, target=0.1) for each in NAMES},
        num_steps=len(STEPS),
        model=str(place / "model"),
        seed=seed,
        versions={"ctwa": "1"},
        created=0.0,
    )
    run = RunFolder.create(place / name, _config(place), info)
    times = (10.0 * step for step in range(100))
    with TraceWriter(run.metrics, clock=lambda: next(times)) as trace:
        trace.write(0, {f"val/{each}": 0.5 for each in NAMES})
        for step in STEPS:
            trace.write(
                step,
                {
                    "time/step": 2.0,
                    **{f"objective/{each}/mean": 0.5 + step / 64 for each in NAMES},
                    **{f"covariance/{each}": 0.125 for each in NAMES},
                    **{f"weight/{each}": 0.5 for each in NAMES},
                    **{f"val/{each}": 0.5 + step / 32 for each in NAMES},
                },
            )
    with EventWriter(run.events, clock=lambda: 5.0) as events:
        events.write("engine", "The engine is up.", step=0)
    with SampleWriter(run.samples) as samples:
        samples.write(1, ["1 + 1 ?"], ["2"], {each: [1.0] for each in NAMES})
    if name == "run":
        for step in (2, 4):
            folder = step_folder(run.checkpoints, step)
            save_model(folder / "actor" / "huggingface", seed=step)
            (folder / "ctwa_state.json").write_text('{"version": 1}')
            seal(folder)
        (run.checkpoints / BEST).symlink_to("global_step_2")


def _config(place: Path) -> dict[str, object]:
    """What an evaluation reads of a run's config.yaml."""
    return yaml.safe_load(f"""
        ctwa:
          objectives:
            accuracy: {{reward_fn: 'ctwa.testbed.rewards:accuracy', weight: 0.5}}
            clarity: {{reward_fn: 'ctwa.testbed.rewards:clarity', weight: 0.5}}
          reference_length: null
          rewards: {{num_workers: 1, max_unscored: 0.05}}
        data: {{val_files: ['{place}/data.jsonl'], val_max_samples: 4}}
        actor_rollout_ref:
          model: {{path: '{place}/model'}}
          rollout:
            response_length: 4
            val_kwargs: {{n: 1, temperature: 1.0, top_p: 1.0, top_k: -1, do_sample: true}}
    """)


def _make_evaluation(folder: Path) -> None:
    """What `ctwa pairs` reads."""
    folder.mkdir()
    lines = [
        {
            "schema": SCHEMA,
            "model": "base",
            "row": number // 2,
            "sample": number % 2,
            "prompt": [{"role": "user", "content": f"{number // 2} + 1 ?"}],
            "response": str(number),
            "finished": True,
            "rewards": {each: float(number % 2) for each in NAMES},
        }
        for number in range(8)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
