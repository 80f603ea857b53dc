"""`ctwa plan`: what it tells of a run, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from transformers import LlamaConfig
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.engine.compose import compose_config
from ctwa.errors import CtwaError
from tests.capacity.workloads import SMALL
from tests.conftest import ROOT

SERVERS = "actor_rollout_ref.rollout.tensor_model_parallel_size"
ROWS = "actor_rollout_ref.actor.ulysses_sequence_parallel_size"


SCALING = (ROOT / "docs/scaling.md").read_text()
EXAMPLES = re.findall(r"^\$ (ctwa plan (?:.*\\\n)*.*\n)(plan of [^$]*?)^```$", SCALING, re.MULTILINE)


@pytest.mark.parametrize(("command", "told"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_plans_of_the_documentation(command: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert CliRunner().invoke(app, shlex.split(command.replace("\\\n", ""))[1:]).output == told


def test_the_documentation_has_plans() -> None:
    assert len(EXAMPLES) == 5


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        config = LlamaConfig(
            **SMALL | {"hidden_size": 512, "intermediate_size": 2048, "architectures": ["LlamaForCausalLM"]}
        )
        config.save_pretrained(tmp_path)
        return tmp_path

    def plan(self, folder: Path, *arguments: str, task: str = "math500") -> Any:
        model = f"actor_rollout_ref.model.path={folder}"
        return CliRunner().invoke(app, ["plan", f"task={task}", model, *arguments])

    def test_it_tells_all_of_a_run_and_what_does_not_fit(self, folder: Path) -> None:
        fits = self.plan(folder, "--gpus", "2x4xA100", "method=mgda", "ctwa.gradients.gram=cross_fitted")
        assert fits.exit_code == 0, fits.output
        assert "update 1 forward and 4 backward" in fits.output
        assert "gradients (7 at once)" in fits.output  # of two halves for each of three objectives, and the KL penalty
        assert "GB into each node" in fits.output
        assert fits.output.rstrip().endswith("it fits")

        vast = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=20000000"
        many = ("data.train_batch_size=65536", "actor_rollout_ref.actor.ppo_mini_batch_size=65536")
        fails = self.plan(folder, "--gpus", "1xL4", vast, *many)
        assert fails.exit_code == 1
        assert "it does not fit: while the policy is updated" in fails.output
        assert "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=" in fails.output.split("write", 1)[1]

    def test_weights_are_held_in_the_type_that_they_are_trained_in(self) -> None:
        held = []
        for dtype in ("fp32", "bf16"):
            told = self.plan(
                ROOT / "benchmarks/shapes/qwen2.5-7b", f"actor_rollout_ref.actor.fsdp_config.model_dtype={dtype}"
            ).output
            found = re.search(r"([\d.]+) GB? ?optimizer|optimizer ([\d.]+)", told)
            assert found is not None, told
            held.append(float(found[1] or found[2]))
        assert held[0] == pytest.approx(2 * held[1], rel=0.1)

    def test_a_model_is_named_as_one_writes_it(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        elsewhere = self.plan(folder, "--gpus", "1xL4").output
        monkeypatch.chdir(folder.parent)
        assert self.plan(Path(folder.name), "--gpus", "1xL4").output == elsewhere.replace(f"{folder.parent}/", "")

    @pytest.fixture
    def task(self, folder: Path) -> Path:
        (folder / "task").mkdir()
        (folder / "task" / "model").symlink_to(folder)
        return folder / "task"

    @pytest.mark.parametrize(
        ("engine", "arguments", "said"),
        [
            ("cpu", [], "verdict      it fits"),
            ("one_gpu", [], "a plan is of a run on GPUs whose server is vLLM: write engine=gpu"),
            ("one_gpu", ["engine=gpu"], "verdict      it fits"),
        ],
    )
    def test_it_goes_by_the_folders_of_a_file(self, task: Path, engine: str, arguments: list[str], said: str) -> None:
        file = task / "mine.yaml"
        file.write_text(f"task: testbed\nengine: {engine}\nctwa: {{run: {task / 'run'}, task_dir: {task}}}\n")
        result = CliRunner().invoke(app, ["plan", "--gpus", "1xL4", str(file), *arguments])
        assert said in f"{result.output}{result.exception}"

    @pytest.mark.parametrize(
        ("targets", "begins_with", "said"),
        [
            ("[none]", [], "target_modules: the model has no none: write some of down_proj"),
            ("'.*none'", [], "target_modules=.*none: a text is a pattern of whole names, such as model.layers.0"),
            ("[embed_tokens]", [], "puts an adapter in model.embed_tokens (Embedding), where a saved model would not"),
            # One that a run begins with need not be here, and is counted where the settings say.
            *(
                (each, ["actor_rollout_ref.model.lora_adapter_path=elsewhere"], "is of no matrix of the model: write a")
                for each in ("'*_proj'", "[none]", "'.*none'")
            ),
        ],
    )
    def test_an_adapter_that_a_run_is_refused_for_is_not_planned(
        self, task: Path, targets: str, begins_with: list[str], said: str
    ) -> None:
        model = "actor_rollout_ref.model"
        adapter = [f"{model}.lora_rank=4", f"{model}.lora_alpha=8", f"{model}.target_modules={targets}"]
        place = [f"ctwa.task_dir={task}", f"{model}.path={task / 'model'}"]
        result = CliRunner().invoke(app, ["plan", "--gpus", "1xL4", "task=testbed", *place, *adapter, *begins_with])
        assert said in f"{result.output}{result.exception}"

    @pytest.mark.parametrize(
        ("engine", "said"),
        [
            ("gpu", "verdict      it fits"),
            ("cpu", "config.yaml is all of a run on another engine; give the settings"),
        ],
    )
    def test_a_whole_configuration_keeps_its_engine(self, task: Path, engine: str, said: str) -> None:
        config = compose_config([f"engine={engine}", f"ctwa.task_dir={task}", f"ctwa.run={task / 'run'}"])
        OmegaConf.save(config, task / "config.yaml")
        result = CliRunner().invoke(app, ["plan", "--gpus", "1xL4", str(task / "config.yaml")])
        assert said in f"{result.output}{result.exception}"

    def test_it_tells_of_a_training_on_pairs(self, folder: Path) -> None:
        own = ["--of", "prefer", "ctwa.max_length=1024", "--gpus", "1xL4"]
        fits = self.plan(folder, *own, "--response", "700", task="instructions")
        assert fits.exit_code == 0, fits.output
        assert "raco, dpo" in fits.output
        assert "8 pairs of two rows, of 700 tokens (at most 1024)" in fits.output
        assert "update 1 forward and 3 backward" in fits.output
        assert "gradients (3 at once)" in fits.output
        assert "its log-probabilities of all pairs, 1 forward" in fits.output
        assert "server" not in fits.output

        policies = "{brevity: org/brief, well_formed: org/well}"
        modpo = ["method=linear", f"ctwa.modpo={{objective: constraints, policies: {policies}}}"]
        many = ["data.train_batch_size=65536", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16384"]
        fixed = "actor_rollout_ref.actor.use_dynamic_bsz=false"
        fails = self.plan(folder, *own, *many, fixed, *modpo, task="instructions")
        assert fails.exit_code == 1, fails.output
        assert "brevity, well_formed: each up to" in fails.output
        # Neither offloading nor a server's share would help: there is no server.
        assert "use_dynamic_bsz=true actor_rollout_ref.actor.ppo_max_token_len_per_gpu=" in fails.output
        assert "offload" not in fails.output
        assert "gpu_memory_utilization" not in fails.output

    def test_it_tells_of_iterations_under_constraints(self, folder: Path) -> None:
        own = ["--of", "caid", "ctwa.caid.thresholds={brevity: 0.1}", "--gpus", "2xL4"]
        fits = self.plan(folder, *own, task="instructions")
        assert fits.exit_code == 0, fits.output
        assert "128 prompts x 16 completions = 2048, of 96 + 96 tokens (at most 96 + 96), of the ref" in fits.output
        assert "policies     at most 4, 32 steps each" in fits.output
        assert "h for the reference and 4 policies" in fits.output
        refused = self.plan(folder, *own, "data.train_batch_size=33", task="instructions")
        assert "33 pairs of a step do not divide over 2 ranks" in str(refused.exception)

    @pytest.mark.parametrize(
        ("command", "arguments", "said"),
        [
            ("caid", ["data.val_max_samples=1"], "data.val_max_samples=1: a slack has a standard error over prompts"),
            ("caid", ["data.val_max_samples=4", "data.train_batch_size=32"], "4 prompts with ctwa.pairs_per_prompt=4"),
            ("caid", ["data.val_max_samples=-1"], "a plan reads no data: write how many prompts are sampled"),
            ("caid", ["data.validation_share=0.1"], "data.validation_share: `ctwa caid` samples the prompts"),
            ("prefer", ["+ctwa.objectives.more.data=other.parquet", "data.train_batch_size=9"], "over 2 data sets"),
            ("prefer", ["ctwa.max_length=5000"], "less than ctwa.max_length = 5000"),
            ("train", ["data.max_response_length=5000"], "has places for "),
            ("train", ["method=mgda", "ctwa.gradients.last_layers=3"], "ctwa.gradients.last_layers=3, and the model"),
            (
                "train",
                [f"{SERVERS}=8"],
                f"{SERVERS}=8: so many cannot share the model's 4 heads of attention, with 2",
            ),
            (
                "train",
                [f"{ROWS}=8"],
                f"{ROWS}=8: so many cannot share the model's 4 heads of attention, with 2",
            ),
            ("train", ["method=gdpo", "algorithm.use_kl_in_reward=true"], "algorithm.use_kl_in_reward=true: gdpo "),
        ],
    )
    def test_it_refuses_what_a_run_is_refused_for_by_its_settings(
        self, folder: Path, command: str, arguments: list[str], said: str
    ) -> None:
        own = ["ctwa.caid.thresholds={brevity: 0.1}"] if command == "caid" else []
        budget = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=20000"
        budgets = [budget, *(f"{budget.replace('actor.ppo', f'{each}.log_prob')}" for each in ("rollout", "ref"))]
        refused = self.plan(folder, "--of", command, *own, *budgets, *arguments, task="instructions")
        assert said in str(refused.exception)

    def test_it_wants_gpus_and_a_model_that_is_here(self, folder: Path) -> None:
        for arguments, said in (
            (["engine=cpu"], "a plan is of a run on GPUs"),
            (["engine=one_gpu"], "whose server is vLLM: write engine=gpu"),
            (["trainer.nnodes=2"], "trainer.nnodes=2 is not what --gpus 8xH100 says, which is trainer.nnodes=1"),
            (
                ["--gpus", "2x4xH100", "actor_rollout_ref.rollout.tensor_model_parallel_size=8"],
                "tensor_model_parallel_size=8 does not divide the GPUs of a node, trainer.n_gpus_per_node=4",
            ),
            (["--response", "99999"], "--response 99999: write a number of tokens up to"),
            (["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=64"], "less than the longest row"),
        ):
            refused = self.plan(folder, *arguments)
            assert isinstance(refused.exception, CtwaError), refused.output
            assert said in str(refused.exception)
        (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
        assert "no language model" in str(self.plan(folder).exception)
        assert "nothere is neither a folder nor among the downloads" in str(self.plan(Path("nothere")).exception)
