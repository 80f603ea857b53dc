"""Generation through verl's agent loops: a conversation a completion, each of which ends when it will."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import transfer_queue as tq
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from ctwa.engine.verl.rows import prompt_name


class AgentLoops:
    """verl's agent loops, watched.

    Args:
        manager: verl's manager of the loops.
        poll_interval: seconds between two looks for completions.
    """

    columns = ("responses", "response_mask", "extra_fields")
    """Of a completion, what says which of it the policy wrote."""

    def __init__(self, manager: Any, poll_interval: float) -> None:
        self._manager = manager
        self._poll_interval = poll_interval

    def complete(self, batch: TensorDict) -> Iterator[list[str]]:
        """Complete a batch of prompts; the loops put the completions into the transfer queue.

        Yields:
            The keys of completions that are in the queue by now, a prompt's all at once; at every look, of none too.
        """
        partition = "val" if tu.get_non_tensor_data(batch, "validate", default=False) else "train"
        unfinished = set(batch["uid"])
        self._manager.generate_sequences(batch)
        while unfinished:
            time.sleep(self._poll_interval)
            tags = tq.kv_list(partition)[partition]
            ended = {name for name in unfinished if tags[name]["status"] in ("finished", "failure")}
            unfinished -= ended
            yield [key for key, tag in tags.items() if not tag.get("is_prompt") and prompt_name(key) in ended]
