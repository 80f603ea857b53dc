"""The example's loop of tools, on a model that writes equations, without Ray around it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap
from verl.tools.function_tool import load_function_tools_from_path
from verl.workers.rollout.replica import TokenOutput

from ctwa.engine.verl.columns import SEED_COLUMN
from ctwa.models.decoding import Sampling, end_tokens, generate_batch
from ctwa.testbed.bases import shipped_bases
from ctwa.testbed.tasks import Problem
from ctwa.testbed.tokenizer import build_tokenizer
from examples.calculator.loop import CALL, CalculatorLoop
from examples.calculator.rewards import tool_use
from tests.conftest import ROOT

TOKENIZER = build_tokenizer()
PROBLEM = Problem((3, 4, 2, 5), ("+", "*", "-"))
RESPONSE_LENGTH = 40


class Server:
    """Completes prompts with a base model of the testbed, as verl asks for it."""

    def __init__(self) -> None:
        self._model = shipped_bases()[0].load()
        self._ends, self._pad = end_tokens(self._model)

    async def generate(self, *, prompt_ids: list[int], sampling_params: dict[str, Any], **options: Any) -> TokenOutput:
        """One completion, which ends at the end of sequence or at a stop token."""
        sampling = Sampling(1.0, 1.0, -1, max_tokens=sampling_params["max_tokens"])
        ends = self._ends | {*sampling_params["stop_token_ids"]}
        (made,) = generate_batch(self._model, [prompt_ids], sampling, [sampling_params["seed"]], ends, self._pad)
        return TokenOutput(token_ids=made.token_ids, log_probs=made.log_probs)


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


@pytest.fixture
def complete(testbed_config: DictConfig, server: Server) -> Any:
    rollout = {
        "response_length": RESPONSE_LENGTH,
        "multi_turn": {"format": "equation", "max_assistant_turns": 4},
    }
    config = OmegaConf.merge(testbed_config, {"actor_rollout_ref": {"rollout": rollout}})
    tools = load_function_tools_from_path(str(ROOT / "examples/calculator/tools.py"))

    async def one(session: int) -> AgentLoopOutput:
        loop = CalculatorLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=server,
            tokenizer=TOKENIZER,
            processor=None,
            dataset_cls=None,
            data_config=DictConfigWrap(config.data),
            hf_model_type="qwen2",
            tools=ToolListWrap(tools),
        )
        prompt = [{"role": "user", "content": PROBLEM.prompt}]
        return await loop.run({}, raw_prompt=prompt, session_id=session, **{SEED_COLUMN: "0/train/1/0"})

    def several(num: int) -> list[AgentLoopOutput]:
        async def run() -> list[AgentLoopOutput]:
            return [await one(session) for session in range(num)]

        return asyncio.run(run())

    return several


def test_turns_end_at_calls_whose_answers_are_not_the_policys(complete: Any) -> None:
    outputs = complete(12)

    called = [output for output in outputs if 0 in output.response_mask]
    assert called
    for output in outputs:
        messages = output.extra_fields["messages"]
        told = zip(output.response_ids, output.response_mask, strict=True)
        words = [(TOKENIZER.decode([token], skip_special_tokens=True), own) for token, own in told]
        by_role = {"assistant": 1, "tool": 0}
        said = [(word, by_role[m["role"]]) for m in messages for word in m["content"].split()]
        assert said == [(word, own) for word, own in words if word]
        assert len(output.response_ids) <= RESPONSE_LENGTH
    for output in called:
        messages = output.extra_fields["messages"]
        for call, answer in pairwise(messages):
            if answer["role"] == "tool":
                expression = CALL.search(call["content"])
                assert expression is not None
                words = expression[1].split()
                problem = Problem(tuple(map(int, words[::2])), tuple(words[1::2]))
                assert (answer["content"], len(call["tool_calls"])) == (str(problem.answer), 1)
    assert max(tool_use(output.extra_fields["messages"], PROBLEM.prompt) for output in called) > 0


def test_a_completion_depends_on_its_own_seed_alone(complete: Any) -> None:
    first, again = complete(4), complete(4)

    assert [output.response_ids for output in first] == [output.response_ids for output in again]
    assert len({tuple(output.response_ids) for output in first}) > 1
