"""The rows that a run has in its folder, as verl's data set."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
from pyarrow import parquet
from verl.utils.dataset.rl_dataset import RLHFDataset

_WRITTEN_OVER = ("index", "tools_kwargs", "interaction_kwargs")


class RunRows(RLHFDataset):
    """verl's data set, of parquet files that are in the run's folder already.

    verl itself reads by way of the cache of ``datasets``, which would keep a copy of the rows of every run.
    """

    def __getitem__(self, item: int) -> dict[str, Any]:
        """A row, in which verl writes what it takes out of ``extra_info`` over columns of the user's own."""
        own = self.dataframe[item]
        row: dict[str, Any] = super().__getitem__(item)
        return row | {name: own[name] for name in _WRITTEN_OVER if name in own}

    def _read_files_and_tokenize(self) -> None:
        if not all(path.endswith(".parquet") for path in self.data_files):
            super()._read_files_and_tokenize()  # of the user's own, in verl's format
            return
        tables = [datasets.Dataset(parquet.read_table(path)) for path in self.data_files]
        rows = datasets.concatenate_datasets(tables)
        if 0 < self.max_samples < len(rows):
            chosen: Any = np.arange(self.max_samples)
            if self.shuffle:  # as verl draws them
                draw = np.random.default_rng() if self.seed is None else np.random.default_rng(self.seed)
                chosen = draw.choice(len(rows), size=self.max_samples, replace=False)
            rows = rows.select(chosen.tolist())
        self.dataframe = self.maybe_filter_out_long_prompts(rows)
