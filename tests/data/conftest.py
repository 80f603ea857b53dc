"""What the tests of rows share."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.rows import Rows


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def file(rows: Rows, kind: str = "jsonl") -> str:
        path = tmp_path / f"sums.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif kind == "json":
            path.write_text(json.dumps(rows, indent=1))
        elif kind == "folder":
            datasets.Dataset.from_list(rows).save_to_disk(path)
        elif kind in ("csv", "tsv"):
            with path.open("w", newline="") as out:
                writer = csv.DictWriter(out, rows[0], delimiter="," if kind == "csv" else "\t")
                writer.writeheader()
                writer.writerows(
                    {key: json.dumps(each) if isinstance(each, list) else each for key, each in row.items()}
                    for row in rows
                )
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return file
