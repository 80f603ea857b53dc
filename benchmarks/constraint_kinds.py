"""Which kinds of constraint are kept, model by model, in the completions of a `ctwa eval` on `task=instructions`.

    python benchmarks/constraint_kinds.py runs/eval-instructions-linear-s0

The mean of the objective `constraints` hides what its parts do: docs/results/instructions.md.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from ctwa.instructions.constraints import KINDS, from_json
from ctwa.instructions.text import is_answer
from ctwa.run.jsonl import iterate_jsonl

Kept = dict[str, dict[str, list[bool]]]


def kept_by_kind(evaluation: Path) -> Kept:
    """By kind and model, of every check whether it was passed."""
    data = yaml.safe_load((evaluation / "config.yaml").read_text())["generation"]["data"]
    rows = pq.read_table(data).to_pylist()
    kept: Kept = defaultdict(lambda: defaultdict(list))
    for sample in iterate_jsonl(evaluation / "samples.jsonl"):
        row = rows[sample["row"]]
        answers = is_answer(sample["response"], row["prompt"][-1]["content"])
        for constraint in from_json(row["reward_model"]["ground_truth"]):
            kept[constraint.kind][sample["model"]].append(answers and constraint.holds(sample["response"]))
    return kept


def main() -> None:
    kept = kept_by_kind(Path(sys.argv[1]))
    models = list(dict.fromkeys(model for by_model in kept.values() for model in by_model))
    print(f"{'kind':12}{'checks':>8}" + "".join(f"{model:>16}" for model in models))
    for kind in KINDS:
        if kind in kept:
            shares = {model: sum(passed) / len(passed) for model, passed in kept[kind].items()}
            checks = len(kept[kind][models[0]])
            print(f"{kind:12}{checks:8}" + "".join(f"{shares[model]:16.2f}" for model in models))


if __name__ == "__main__":
    main()
