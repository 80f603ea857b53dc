"""verl's data set, as it reads the rows of a run."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
import numpy as np
from pyarrow import parquet
from verl.utils.dataset.rl_dataset import RLHFDataset

from ctwa.data.templates import Refused, write_prompt
from ctwa.errors import CtwaError
from ctwa.objectives.contract import shortened

_WRITTEN_OVER = ("index", "tools_kwargs", "interaction_kwargs")


class OwnRows(RLHFDataset):
    """verl's data set, of the user's files, which takes no prompt for too long that cannot be written.

    verl itself leaves such out with those that are too long.
    """

    def __getitem__(self, item: int) -> dict[str, Any]:
        """A row, in which verl writes what it takes out of ``extra_info`` over columns of the user's own."""
        own = self.dataframe[item]
        row: dict[str, Any] = super().__getitem__(item)
        return row | {name: own[name] for name in _WRITTEN_OVER if name in own}

    def maybe_filter_out_long_prompts(self, dataframe: Any = None) -> Any:
        """The rows with prompts that are not too long, all where none is to be left out.

        Raises:
            CtwaError: a prompt that the chat template refuses; of prompts with images and the like verl alone looks at
                the length.
        """
        if not self.filter_overlong_prompts or self.processor is not None:
            return super().maybe_filter_out_long_prompts(dataframe)
        return dataframe.filter(
            self._fits,
            num_proc=self.num_workers,
            desc=f"Filtering prompts longer than {self.max_prompt_length} tokens",
        )

    def _fits(self, row: dict[str, Any]) -> bool:
        write = partial(
            self.tokenizer.apply_chat_template,
            **{**self.apply_chat_template_kwargs, "tools": self.tool_schemas},
            add_generation_prompt=True,
            tokenize=False,
        )
        messages = row[self.prompt_key]
        try:
            written = write_prompt(messages, write)
        except Refused as error:
            raise CtwaError(f"{', '.join(self.data_files)}: {error} ({shortened(str(messages), 80)})") from error
        return len(self.tokenizer(written, add_special_tokens=False)["input_ids"]) <= self.max_prompt_length


class RunRows(OwnRows):
    """The same of parquet files that are in the run's folder already.

    verl itself reads by way of the cache of ``datasets``, which would keep a copy of the rows of every run.
    """

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
