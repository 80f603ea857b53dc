"""Where the tests' time goes: the durations in the log of a run of the tests, by folder and by test.

scripts/test.sh --durations=0 | tee suite.log
python benchmarks/suite_times.py suite.log
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from ctwa.report.markdown import table

NUM_SLOWEST = 20


def main(log: Path) -> None:
    by_folder: dict[str, float] = defaultdict(float)
    by_test: dict[str, float] = defaultdict(float)
    for line in log.read_text().splitlines():
        parts = line.split(maxsplit=2)
        if len(parts) < 3 or parts[1] not in ("setup", "call", "teardown") or "::" not in parts[2]:
            continue
        path, _, test = parts[2].removeprefix("tests/").partition("::")
        name = f"{path}::{test.partition('[')[0]}"
        seconds = float(parts[0].removesuffix("s"))
        by_folder[path.partition("/")[0]] += seconds
        by_test[name] += seconds
    print(slowest("folder", by_folder, len(by_folder)))
    print(slowest("test, all its cases", by_test, NUM_SLOWEST))


def slowest(what: str, seconds: dict[str, float], num_rows: int) -> str:
    """The largest first, as Markdown."""
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:num_rows]
    return table((what, "seconds"), [(f"`{name}`", f"{value:.0f}") for name, value in largest]) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
