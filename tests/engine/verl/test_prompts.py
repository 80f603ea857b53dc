"""Prompts that are too long for a run are refused, before and after an agent loop cut them."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from ctwa.engine.verl.rollout.prompts import PromptTokens
from ctwa.errors import CtwaError
from ctwa.testbed.tokenizer import build_tokenizer

MESSAGES = [{"role": "user", "content": "1 + 2 = 3"}]
TOOLS: list[dict[str, Any]] = [{"function": {"name": name}} for name in ("add", "multiply")]
TEMPLATE = "{% for m in messages %}{{ m['content'] + '' }}{% endfor %}{% for t in tools or [] %} 7{% endfor %}"


def tokens_of(config: DictConfig, limit: int) -> PromptTokens:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return PromptTokens(
        OmegaConf.merge(config, {"actor_rollout_ref": {"rollout": {"prompt_length": limit}}}), tokenizer, TOOLS
    )


def test_one_over_the_limit_is_refused(testbed_config: DictConfig) -> None:
    assert len(tokens_of(testbed_config, 7)(MESSAGES)) == 7
    with pytest.raises(CtwaError, match=r"has 7 tokens, data\.max_prompt_length is 6: write a larger one"):
        tokens_of(testbed_config, 6)(MESSAGES)


def test_one_that_was_cut_is_told_from_one_that_just_fits(testbed_config: DictConfig) -> None:
    tokens = tokens_of(testbed_config, 6)
    tokens.check_whole(MESSAGES, 5)
    tokens.check_whole(MESSAGES, 6, ["add"])  # a row with one of the tools
    with pytest.raises(CtwaError, match="has 7 tokens"):
        tokens.check_whole(MESSAGES, 6)


def test_one_that_the_template_does_not_take_is_a_sentence(testbed_config: DictConfig) -> None:
    with pytest.raises(
        CtwaError, match=r"^the model's chat template cannot render a prompt \(.*\): write messages that"
    ):
        tokens_of(testbed_config, 7)([{"role": "user"}])
