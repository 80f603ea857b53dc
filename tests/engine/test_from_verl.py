"""verl's own gdpo example, and other runs of verl's users, as runs of ctwa."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from typer.testing import CliRunner
from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage
from verl.utils.torch_functional import masked_whiten

from ctwa.batch import RewardMatrix, Rollout
from ctwa.cli import app
from ctwa.engine.checks.config import check_train_settings
from ctwa.engine.checks.keys import verl_files
from ctwa.engine.compose import compose_config
from ctwa.engine.from_verl import translate, write
from ctwa.engine.verl.estimate import VerlEstimate
from ctwa.errors import CtwaError
from ctwa.objectives.calls import sharing
from ctwa.objectives.config import parse_objectives
from ctwa.run.dotted import dotted
from ctwa.scalarizers import build_scalarizer, method_options
from tests.conftest import ROOT

GDPO = [
    "algorithm.adv_estimator=gdpo",
    '+algorithm.gdpo_reward_keys=["accuracy_reward", "format_reward"]',
    "algorithm.kl_ctrl.kl_coef=0.001",
    "data.train_files=data/train.parquet",
    "data.val_files=data/test.parquet",
    "data.train_batch_size=32",
    "data.val_batch_size=16",
    "data.max_prompt_length=2048",
    "data.max_response_length=1024",
    "data.filter_overlong_prompts=True",
    "actor_rollout_ref.model.path=Qwen/Qwen2.5-1.5B-Instruct",
    "actor_rollout_ref.model.use_remove_padding=True",
    "actor_rollout_ref.actor.optim.lr=1e-6",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.actor.use_kl_loss=False",
    "actor_rollout_ref.actor.fsdp_config.param_offload=False",
    "actor_rollout_ref.rollout.prompt_length=2048",
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.n=4",
    "reward.custom_reward_function.path=verl/utils/reward_score/rlla.py",
    "reward.custom_reward_function.name=compute_score",
    "reward.reward_manager.name=gdpo",
    "trainer.critic_warmup=0",
    "trainer.logger=['console']",
    "trainer.project_name=GDPO-qwen2.5",
    "trainer.experiment_name=qwen2.5-1.5B-GDPO",
    "trainer.n_gpus_per_node=8",
    "trainer.default_local_dir=results/gdpo",
    "trainer.save_freq=20",
    "trainer.total_epochs=15",
    "trainer.val_before_train=False",
]
"""The settings of verl's examples/gdpo_trainer."""
GRPO = "algorithm.adv_estimator=grpo"


def test_the_gdpo_example_of_verl_is_a_run_of_ctwa_with_its_keys_as_objectives(tmp_path: Path) -> None:
    out = tmp_path / "ctwa.yaml"
    made = translate([*GDPO, "+reward.custom_reward_function.reward_kwargs.strict=true"])
    write(made, out)
    assert "&id" not in out.read_text()  # each objective has its own kwargs, to be changed by themselves
    config = compose_config([str(out)])

    objectives = parse_objectives(OmegaConf.to_container(config.ctwa.objectives))
    assert list(objectives) == ["accuracy_reward", "format_reward"]
    assert sharing(objectives) == {"accuracy_reward": ["accuracy_reward", "format_reward"]}
    assert (config.ctwa.method.type, config.algorithm.adv_estimator) == ("gdpo", "grpo")
    assert Path(config.ctwa.run).parts[-2:] == ("results", "gdpo")
    assert config.trainer.val_before_train is False
    # What the user wrote and ctwa has no other word for is as it was; verl's defaults hold where ctwa has others.
    assert (config.actor_rollout_ref.rollout.n, config.actor_rollout_ref.actor.ppo_mini_batch_size) == (4, 4)
    assert config.trainer.test_freq == -1
    gone = {
        *("algorithm.gdpo_reward_keys", "actor_rollout_ref.rollout.prompt_length", "reward.reward_manager.name"),
        *("reward.custom_reward_function.path", "reward.custom_reward_function.name", "trainer.default_local_dir"),
        *("trainer.project_name", "trainer.experiment_name", "actor_rollout_ref.rollout.name"),
    }
    written = {each.partition("=")[0].lstrip("+") for each in GDPO}
    assert written - made.settings.keys() == gone
    told, stay = made.notes[-2:]
    assert {*told.partition("others: ")[2].split(", ")} == {
        *("trainer.test_freq", "trainer.max_actor_ckpt_to_keep", "actor_rollout_ref.actor.use_dynamic_bsz"),
        "actor_rollout_ref.rollout.tensor_model_parallel_size",
    }
    assert "actor_rollout_ref.actor.strategy=fsdp2, " in stay
    with pytest.raises(CtwaError, match="is there already"):
        write(made, out)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_default_that_is_not_verl_s_is_written_out_or_told(device: str, tmp_path: Path) -> None:
    """But for those that follow from ctwa's own keys: seeds, folders, names."""
    given = ["data.train_files=a", "data.val_files=b", "actor_rollout_ref.model.path=m", f"trainer.device={device}"]
    made = translate([GRPO, *given])
    write(made, tmp_path / "ctwa.yaml")
    config = dotted(OmegaConf.to_container(compose_config([str(tmp_path / "ctwa.yaml"), "ctwa.run=r"])))
    verl = dotted(yaml.safe_load((verl_files() / "_generated_ppo_trainer.yaml").read_text()))

    other = {key for key in config.keys() & verl.keys() if "${" not in str(verl[key]) and config[key] != verl[key]}
    silent = {key for key in other - made.settings.keys() if key not in " ".join(made.notes)}
    follow = {key for key in silent if key.endswith(("seed", "agent_loop_config_path", "router_config_path"))}
    assert silent - follow == {
        *("trainer.project_name", "trainer.experiment_name", "trainer.resume_mode"),
        *("actor_rollout_ref.rollout.name", "reward.num_workers"),
    }
    assert config["trainer.max_actor_ckpt_to_keep"] is None
    assert "trainer.logger=['tensorboard']" in made.notes[-1]


def test_the_commands_of_the_page_lead_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the model, the rows and the GPUs, which are not here."""
    page = (ROOT / "docs" / "verl.md").read_text().replace("\\\n", " ")
    from_verl, train = (shlex.split(line)[1:] for line in re.findall(r"^ctwa .*", page, re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, from_verl, catch_exceptions=False).output
    assert said.endswith("then: ctwa train ctwa.yaml ctwa.run=runs/first --dry-run\n")

    *settings, dry_run = train[1:]
    assert dry_run == "--dry-run"
    config = compose_config(settings)
    Path("score.py").write_text("def compute_score(solution_str): ...")
    check_train_settings(config)
    Path("ctwa.yaml").unlink()
    said = CliRunner().invoke(app, [*from_verl, "trainer.default_local_dir=out"], catch_exceptions=False).output
    assert said.endswith("then: ctwa train ctwa.yaml --dry-run\n")


def test_the_script_of_the_example_is_a_run_on_the_parts_of_its_reward(
    task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verl script of one's own, as docs/verl.md changes it: it translates its settings once, and trains on them."""
    stub = tmp_path / "ctwa"
    stub.write_text('#!/usr/bin/env bash\nprintf "%q " "$@"\necho\n')
    stub.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    files = {"MODEL": task_dir / "model", "TRAIN": task_dir / "train.parquet", "VAL": task_dir / "val.parquet"}
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "DEVICE": "cpu"}
    environment |= {name: str(path) for name, path in files.items()}

    def commands() -> list[list[str]]:
        script = [str(ROOT / "examples/verl_script/train.sh"), "method=gdpo", "ctwa.run=runs/first"]
        said = subprocess.run(script, capture_output=True, text=True, check=True, env=environment).stdout
        return [shlex.split(line) for line in said.splitlines()]

    from_verl, (_, *train) = commands()
    CliRunner().invoke(app, from_verl, catch_exceptions=False)
    config = compose_config(train)
    objectives = check_train_settings(config).objectives

    assert {name: each.weight for name, each in objectives.items()} == {"accuracy": 1, "brevity": 0.5}
    assert (config.ctwa.method.type, config.algorithm.adv_estimator) == ("gdpo", "grpo")
    note, again = commands()
    assert "is there and is used as it is" in " ".join(note)
    assert again == ["train", *train]


def test_its_advantages_are_those_of_verl_before_what_is_counted_at_the_end() -> None:
    """verl standardises the sum over tokens, ctwa over completions, as the paper does."""
    generator = torch.Generator().manual_seed(0)
    rewards_NM = torch.rand(12, 2, generator=generator).double().round(decimals=1)
    mask_NT = (torch.arange(5) < torch.randint(1, 6, (12, 1), generator=generator)).long()
    group_N, names, weights = torch.arange(12) // 4, ("accuracy_reward", "format_reward"), [1.0, 0.5]
    algorithm = OmegaConf.create(
        {"adv_estimator": "grpo", "norm_adv_by_std_in_grpo": True, "use_kl_in_reward": False, "gamma": 1.0}
    )
    verl_NT, _ = compute_gdpo_outcome_advantage(
        token_level_rewards=torch.zeros(12, 5),
        response_mask=mask_NT,
        index=np.array([str(group) for group in group_N.tolist()], dtype=object),
        config=OmegaConf.create({"gdpo_reward_keys": list(names), "gdpo_reward_weights": weights}),
        non_tensor_batch={name: rewards_NM[:, column].numpy() for column, name in enumerate(names)},
        batch={"prompts": torch.zeros(12, 3), "attention_mask": torch.cat([torch.ones(12, 3).long(), mask_NT], dim=1)},
    )

    made = translate([*GDPO, "algorithm.gdpo_reward_weights=[1.0,0.5]"]).settings
    of = {name: made[f"ctwa.objectives.{name}"]["weight"] for name in names}
    options = method_options(made["method"], batch_normalize=False)
    method = build_scalarizer(options, of, scale_invariant=True)
    rollout = Rollout(RewardMatrix(names, rewards_NM, torch.ones(12, 2, dtype=torch.bool)), group_N, mask_NT)
    sum_NT = method.advantages(rollout, VerlEstimate(algorithm, mask_NT, group_N)).float()

    torch.testing.assert_close(masked_whiten(sum_NT, mask_NT) * mask_NT, verl_NT, atol=1e-5, rtol=1e-5)


def test_a_configuration_of_ones_own_and_older_words_are_translated(tmp_path: Path) -> None:
    own = tmp_path / "grpo.yaml"
    own.write_text(
        yaml.safe_dump(
            {
                "defaults": ["ppo_trainer", "_self_"],
                "hydra": {"run": {"dir": "out"}},
                "data": {"train_files": ["a.parquet", "b.parquet"], "train_batch_size": 64},
                "custom_reward_function": {"path": "my.py", "name": "score", "reward_kwargs": {"strict": True}},
                "critic": {"enable": False},
                "trainer": {"device": "cpu"},
            }
        )
    )
    words = ["data.train_batch_size=128", "reward.num_workers=2", "ray_init.num_cpus=96"]
    settings = translate([str(own), GRPO, *words]).settings

    assert settings["data.train_files"] == ["a.parquet", "b.parquet"]
    assert settings["data.train_batch_size"] == 128
    assert settings["ctwa.objectives.score"] == {"reward_fn": "my.py:score", "kwargs": {"strict": True}}
    assert (settings["engine"], settings["method"], settings["ctwa.rewards.num_workers"]) == ("cpu", "linear", 2)
    assert settings["ray_kwargs.ray_init.num_cpus"] == 96
    assert [key for key in settings if key.startswith(("critic", "defaults", "hydra", "custom"))] == []
    assert settings["actor_rollout_ref.actor.ppo_mini_batch_size"] == 256


def test_a_copy_of_verl_s_own_file_and_the_words_of_older_scripts_are_translated(tmp_path: Path) -> None:
    verl = str(verl_files() / "_generated_ppo_trainer.yaml")
    older = ["reward_model.num_workers=3", "reward_model.enable=true", "+reward_model.reward_kwargs.max_resp_len=9"]
    made = translate([verl, GRPO, "custom_reward_function.path=my.py", *older])

    assert made.settings["ctwa.run"] == "checkpoints/verl_examples/gsm8k"
    assert made.settings["ctwa.objectives.score"]["reward_fn"] == "my.py:compute_score"
    assert (made.settings["ctwa.rewards.num_workers"], made.settings["reward.reward_model.enable"]) == (3, True)
    assert not [key for key in made.settings if key.startswith(("reward_model.", "custom_reward", "sandbox_fusion."))]
    assert "reward.reward_kwargs.max_resp_len=9 is left out: verl's reward manager dapo alone reads them" in made.notes
    assert any(note.startswith("critic.*, ") for note in made.notes)
    write(made, tmp_path / "ctwa.yaml")
    assert compose_config([str(tmp_path / "ctwa.yaml")]).data.train_batch_size == 1024


def test_what_is_noted_of_a_value_with_line_breaks_is_no_setting() -> None:
    made = translate([GRPO, "trainer.project_name='a\nctwa: {seed: 7}'", "trainer.experiment_name='b\u2028task: mine'"])

    assert len(made.notes) > 2
    content = yaml.safe_load(made.text())
    assert (content["task"], "seed" in content["ctwa"]) == ("custom", False)


def test_what_nothing_reads_is_left_out_where_it_asks_for_something() -> None:
    made = translate(
        [GRPO, "trainer.log_val_generations=10", "trainer.balance_batch=true", "actor_rollout_ref.nccl_timeout=9"]
    )

    assert {"trainer.log_val_generations", "actor_rollout_ref.nccl_timeout"}.isdisjoint(made.settings)
    assert made.settings["trainer.balance_batch"] is True  # verl's default
    assert "actor_rollout_ref.nccl_timeout=9 is left out, for nothing reads it" in made.notes


@pytest.mark.parametrize(
    ("device", "name", "servers"),
    [("cuda", "sglang", "vllm"), ("cuda", "trtllm", "vllm"), ("cpu", "vllm", "transformers")],
)
def test_servers_that_are_not_here_are_those_of_the_engine(
    device: str, name: str, servers: str, tmp_path: Path
) -> None:
    of_rollout = [f"{key}={value}" for key, value in {"name": name, "engine_kwargs.sglang.page_size": 2}.items()]
    made = translate([*GDPO, f"trainer.device={device}", *(f"actor_rollout_ref.rollout.{each}" for each in of_rollout)])

    assert f"actor_rollout_ref.rollout.name={name} is {servers} here, " in "\n".join(made.notes)
    assert "rollout.engine_kwargs.sglang.page_size=2 is left out: no server of sglang is" in "\n".join(made.notes)
    write(made, tmp_path / "ctwa.yaml")
    assert compose_config([str(tmp_path / "ctwa.yaml")]).actor_rollout_ref.rollout.name == servers


@pytest.mark.parametrize("arguments", [[], ["algorithm.adv_estimator=gae"], ["critic.optim.lr=1e-5"]])
def test_what_verl_has_a_critic_for_is_no_grpo(arguments: list[str]) -> None:
    with pytest.raises(CtwaError, match=r"^algorithm\.adv_estimator=gae, verl's default where none is written, "):
        translate(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config-path=./config", "--config-name=ppo_megatron_trainer.yaml"],
        ["actor_rollout_ref.actor.megatron.tensor_model_parallel_size=2"],
        ["+actor_rollout_ref.ref.veomni.strategy=veomni"],
        ["actor_rollout_ref.actor.strategy=torchtitan"],
        ["model_engine=megatron"],
        ["mine.yaml"],
    ],
)
def test_what_another_engine_of_verl_s_trains_is_refused_as_that(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("defaults: [ppo_megatron_trainer, _self_]\n")

    with pytest.raises(CtwaError, match=r"is of verl's engine (megatron|torchtitan|veomni), and models are"):
        translate([*arguments, GRPO])
    translate([GRPO, "actor_rollout_ref.model.path=models/megatron"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("reward.reward_manager.name=dapo", "make what it adds an objective"),
        *(
            (f"algorithm.gdpo_reward_keys={keys}", "write a list of names")
            for keys in ("[]", "accuracy", "[a,a]", "[a.b]", "[1,null]")
        ),
        ("algorithm.gdpo_reward_weights=[1]", "and there are none"),
        ("reward_model.reward_manager=dapo", r"reward\.reward_manager\.name=dapo changes rewards"),
        ("actor@actor_rollout_ref.actor=megatron_actor", "chooses a file of verl's configuration"),
        ("data=3", "data=3 is a value where data"),
        ("reward.custom_reward_function.reward_kwargs=3", "names no arguments"),
        ("~critic", "cannot be translated"),
        ("--config-name=mine", "give the YAML file itself"),
        ("no setting", "is no setting of verl's"),
    ],
)
def test_what_has_no_counterpart_is_refused(argument: str, message: str) -> None:
    with pytest.raises(CtwaError, match=message):
        translate([GRPO, argument])
