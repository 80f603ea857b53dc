"""The process of a reward model (``scorer``): ``python -m ctwa.chat.scorer_process SOCKET SETTINGS``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ctwa.chat.scorer import DECIMALS, LIMIT, ScorerSettings


class RewardModel:
    """A sequence classifier, and what it makes of conversations."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._settings = settings
        torch.set_num_threads(settings.threads)
        self._tokenizer = AutoTokenizer.from_pretrained(settings.model, truncation_side="left", padding_side="right")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model = AutoModelForSequenceClassification.from_pretrained(settings.model, dtype=getattr(torch, settings.dtype))
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model = model.to(settings.device).eval()
        self._label = _label_of(model.config, settings)

    @torch.inference_mode()
    def scores(self, conversations: Sequence[str | list[dict[str, Any]]]) -> list[float]:
        """Of each, in their order."""
        batch = self._tokenizer(
            # The tokenizer takes no half of a surrogate pair, which a model can write.
            [self._text(each).encode("utf-8", "replace").decode() for each in conversations],
            add_special_tokens=self._tokenizer.chat_template is None,  # a template writes its own
            truncation=True,
            max_length=self._settings.max_tokens,
            padding=True,
            return_tensors="pt",
        )
        logits_NL = self._model(**batch.to(self._settings.device)).logits.double()
        values_N = logits_NL[:, 0] if self._label is None else logits_NL.softmax(1)[:, self._label]
        return [round(value, DECIMALS) for value in values_N.tolist()]

    def _text(self, conversation: str | list[dict[str, Any]]) -> str:
        if isinstance(conversation, str):
            return conversation
        if self._tokenizer.chat_template is None:
            return "\n".join(str(message["content"]) for message in conversation)
        text: str = self._tokenizer.apply_chat_template(conversation, tokenize=False)
        return text


def _label_of(config: Any, settings: ScorerSettings) -> int | None:
    """The column of the logits whose probability is the score; None for the only one."""
    if settings.label is None:
        if config.num_labels != 1:
            sys.exit(f"it has {config.num_labels} labels ({', '.join(config.label2id)}): name one with label")
        return None
    label = config.label2id.get(settings.label, settings.label)
    if not isinstance(label, int) or not 0 <= label < config.num_labels or config.num_labels == 1:
        sys.exit(f"it has no label {settings.label!r} (it has {', '.join(config.label2id)})")
    return label


class _Server:
    """Takes what waits, up to a batch, scores it, and says what came out."""

    def __init__(self, model: RewardModel, settings: ScorerSettings) -> None:
        self._model = model
        self._settings = settings
        self._waiting: asyncio.Queue[tuple[asyncio.StreamWriter, int, Any]] = asyncio.Queue()
        self._num_connected = 0
        self._somebody = asyncio.Event()

    async def run(self, path: Path) -> None:
        unfinished = path.with_suffix(".starting")
        unfinished.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, unfinished, limit=LIMIT)
        unfinished.rename(path)  # a client that sees it can connect
        async with server, asyncio.TaskGroup() as group:
            scoring = group.create_task(self._score())
            while True:
                try:
                    await asyncio.wait_for(self._somebody.wait(), self._settings.linger)
                except TimeoutError:
                    path.unlink(missing_ok=True)
                    scoring.cancel()
                    return
                await asyncio.sleep(self._settings.linger)
                if self._num_connected == 0:
                    self._somebody.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._num_connected += 1
        self._somebody.set()
        try:
            while line := await reader.readline():
                number, conversation = json.loads(line)
                self._waiting.put_nowait((writer, number, conversation))
        except ConnectionError:
            pass
        finally:
            self._num_connected -= 1
            writer.close()

    async def _score(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._settings.batch_size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            conversations = [conversation for _, _, conversation in batch]
            try:
                scores: list[float | None] = [*await asyncio.to_thread(self._model.scores, conversations)]
                error = None
            except Exception as raised:  # noqa: BLE001 - told to whoever asked
                scores, error = [None] * len(batch), " ".join(f"{type(raised).__name__}: {raised}".split())[:300]
            for (writer, number, _), score in zip(batch, scores, strict=True):
                if not writer.is_closing():
                    writer.write(json.dumps([number, score, error]).encode() + b"\n")


def main() -> None:
    """Load the model, then serve until nobody is there."""
    path, settings = Path(sys.argv[1]), ScorerSettings(**json.loads(sys.argv[2]))
    os.umask(0o077)
    asyncio.run(_Server(RewardModel(settings), settings).run(path))


if __name__ == "__main__":
    main()
