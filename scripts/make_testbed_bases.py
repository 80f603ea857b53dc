"""Train the base models that come with the package anew, into ctwa/testbed/bases/ (some two minutes each).

    python scripts/make_testbed_bases.py            # all
    python scripts/make_testbed_bases.py C D-31     # some: a preset's own, and the one of D whose seed is 31

Another processor or torch gives other weights: commit them with bases.json, and make the documented results anew.
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ctwa testbed make` has it

from ctwa.errors import CtwaError
from ctwa.testbed.bases import FOLDER, RECORD, checksum
from ctwa.testbed.prepare import prepare, sft_config, training_settings
from ctwa.testbed.presets import get_preset

# F is trained as C is. Those with a seed are for studies (benchmarks/study.py).
SHIPPED = ("A", "C", "D", "G", "A-30", "C-11", "C-21", "D-31", "D-41", "G-11", "G-21")
NUM_THREADS = 1


def main(names: list[str]) -> None:
    if unknown := set(names) - set(SHIPPED):
        raise CtwaError(f"{', '.join(sorted(unknown))} does not come with ctwa: write some of {', '.join(SHIPPED)}")
    record = FOLDER / RECORD
    bases = json.loads(record.read_text()) if record.exists() else {}
    for name in names or SHIPPED:
        letter, _, seed = name.partition("-")
        preset = get_preset(letter)
        if seed:
            preset = replace(preset, sft_seed=int(seed))
        with tempfile.TemporaryDirectory() as folder:
            made = prepare(preset, Path(folder) / name, retrain=True, num_threads=NUM_THREADS)
            weights = made.model / "model.safetensors"
            details = json.loads((made.root / "testbed.json").read_text())
            file = FOLDER / f"{name}.safetensors"
            file.write_bytes(weights.read_bytes())
        bases[name] = {
            "sha256": checksum(file),
            "num_sft_steps": details["num_sft_steps"],
            "training": training_settings(preset, sft_config(preset)),
            "made_with": details["made_with"],
        }
        record.write_text(json.dumps(bases, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
