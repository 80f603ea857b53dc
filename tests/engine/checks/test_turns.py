"""Agent loops, tools and formats of calls: which go together, and which are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig

from ctwa.engine.checks.config import check_config
from ctwa.engine.checks.turns import agent_loops, check_parser, turns_line
from ctwa.errors import CtwaError
from tests.conftest import ROOT
from tests.engine.names import LIVE_WEIGHTS, ROLLOUT, Changed


class TestAgentLoops:
    TURNS: ClassVar[dict[str, Any]] = {
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.engine_kwargs.vllm": LIVE_WEIGHTS,
        f"{ROLLOUT}.multi_turn.enable": True,
        f"{ROLLOUT}.multi_turn.function_tool_path": str(ROOT / "examples/calculator/tools.py"),
        f"{ROLLOUT}.agent.default_agent_loop": "ctwa_tool_agent",
    }

    @pytest.fixture(autouse=True)
    def with_vllm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whether vLLM is installed is not the question here."""
        monkeypatch.setattr("ctwa.engine.checks.engine.find_spec", lambda _: True)

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            (
                {f"{ROLLOUT}.name": "transformers", f"{ROLLOUT}.engine_kwargs": {}},
                r"multi_turn\.enable=true: .* one turn; write generation=vllm_cpu,",
            ),
            (
                {f"{ROLLOUT}.multi_turn.enable": False},
                r"default_agent_loop='ctwa_tool_agent' is none with one turn: write .*multi_turn\.enable=true, or",
            ),
            (
                {f"{ROLLOUT}.agent.default_agent_loop": "tol_agent"},
                r"no such agent loop: write one of single_turn_agent, .*; did you mean 'tool_agent'\?",
            ),
            (
                {f"{ROLLOUT}.agent.default_agent_loop": "single_turn_agent"},
                r"multi_turn\.enable=true, but .*default_agent_loop=single_turn_agent has one turn: write",
            ),
            ({f"{ROLLOUT}.multi_turn.function_tool_path": None}, r"'ctwa_tool_agent' has no tools: write .*FILE\.py"),
            (
                {f"{ROLLOUT}.multi_turn.function_tool_path": f"{ROOT}/examples/calculator/tool.py"},
                r"function_tool_path: .* is no file; .*; did you mean .*tools\.py\?",
            ),
            (
                {f"{ROLLOUT}.multi_turn.function_tool_path": f"{ROOT}/tests/objectives/answers_equal.txt"},
                r"function_tool_path: .*answers_equal\.txt cannot be loaded",
            ),
            (
                {f"{ROLLOUT}.multi_turn.tool_config_path": f"{ROOT}/examples/calculator/agent_loops.yaml"},
                r"tool_config_path: .*agent_loops\.yaml has no list of tools; write tools: \[\{class_name",
            ),
            ({f"{ROLLOUT}.agent.agent_loop_config_path": "/no/loops.yaml"}, r"loops\.yaml cannot be read"),
        ],
    )
    def test_turns_that_cannot_be_are_refused(self, changed: Changed, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(CtwaError, match=sentence):
            check_config(changed(self.TURNS | values))

    @pytest.mark.parametrize("loop", ["tool_agent", "ctwa_tool_agent"])
    def test_turns_with_tools_are_fine(self, changed: Changed, loop: str) -> None:
        config = changed(self.TURNS | {f"{ROLLOUT}.agent.default_agent_loop": loop})
        check_config(config)
        assert turns_line(config).startswith(f"by {loop}, tools: calculator; as many as")

    def test_an_own_loop_whose_module_is_not_there_is_refused(self, changed: Changed, tmp_path: Path) -> None:
        (tmp_path / "loops.yaml").write_text("[{name: mine, _target_: no_such.module.Loop}]")
        values = {f"{ROLLOUT}.agent.agent_loop_config_path": f"{tmp_path}/loops.yaml"}
        with pytest.raises(CtwaError, match=r"no module no_such\.module: put the folder it is in on PYTHONPATH"):
            check_config(changed(self.TURNS | values))

    def test_an_own_file_of_loops_leaves_those_of_ctwa_there(self, changed: Changed, tmp_path: Path) -> None:
        (tmp_path / "loops.yaml").write_text("[{name: mine, _target_: collections.Counter}]")
        config = changed(self.TURNS | {f"{ROLLOUT}.agent.agent_loop_config_path": f"{tmp_path}/loops.yaml"})
        check_config(config)
        of_ctwa = ["single_turn_agent", "ctwa_single_turn", "ctwa_tool_agent"]
        assert [loop["name"] for loop in agent_loops(config)] == [*of_ctwa, "mine"]

    def test_a_format_of_calls_that_nobody_reads_is_refused(self, changed: Changed) -> None:
        with pytest.raises(CtwaError, match=r"multi_turn\.format=hermse .*; did you mean 'hermes'\?"):
            check_parser(changed(self.TURNS | {f"{ROLLOUT}.multi_turn.format": "hermse"}))

    @pytest.mark.parametrize("loop", ["single_turn_agent", "ctwa_single_turn"])
    def test_one_turn_is_fine_with_seeds_and_without(self, changed: Changed, loop: str) -> None:
        check_config(changed({f"{ROLLOUT}.agent.default_agent_loop": loop}))

    def test_rows_may_ask_for_loops_that_are_there(
        self, changed: Changed, testbed_config: DictConfig, tmp_path: Path
    ) -> None:
        table = pq.read_table(testbed_config.data.train_files[0])
        for name, loops in (("tools", ["tool_agent"]), ("plain", ["single_turn_agent"]), ("typo", ["tol_agent"])):
            column = pa.array((["single_turn_agent"] * table.num_rows)[1:] + loops)
            pq.write_table(table.append_column("agent_name", column), tmp_path / f"{name}.parquet")
        plain, tools, typo = (
            {"data.train_files": [f"{tmp_path}/{name}.parquet"]} for name in ("plain", "tools", "typo")
        )
        turns = self.TURNS | {f"{ROLLOUT}.agent.default_agent_loop": "single_turn_agent"}

        check_config(changed(plain))
        check_config(changed(turns | tools))
        for values, sentence in (
            (tools, r"'tool_agent'; .*multi_turn\.enable=true"),
            (turns | typo, "'tol_agent'; there"),
        ):
            with pytest.raises(CtwaError, match=rf"\.parquet, row \d+ .*: its agent_name asks .* loop {sentence}"):
                check_config(changed(values))
