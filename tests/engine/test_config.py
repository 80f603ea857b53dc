"""What the configuration groups compose to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from ctwa.engine.checks.bounds import ACTOR
from ctwa.engine.checks.config import check_config, num_steps
from ctwa.engine.checks.engine import check_with_verl
from ctwa.engine.compose import compose_config
from ctwa.engine.data import read_run_data
from ctwa.engine.job import set_environment
from ctwa.engine.settings import read_settings
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError
from ctwa.policy_loss import Cispo, DppoKl, DppoTv, Dro, GeoMean, Gpg, Gspo, PolicyLoss, Sapo, Vanilla
from tests.conftest import ROOT
from tests.engine.conftest import Compose

CUSTOM = (
    "+ctwa.objectives.accuracy.reward_fn=ctwa.testbed.rewards:accuracy",
    "+ctwa.objectives.clarity.reward_fn=ctwa.testbed.rewards:clarity",
    "+ctwa.objectives.accuracy.target=0.15",
    "+ctwa.objectives.clarity.target=0.08",
    "data.train_files=${ctwa.task_dir}/train.parquet",
    "data.val_files=[${ctwa.task_dir}/val.parquet]",
)


def ref_as_its_worker_reads_it(ref: DictConfig) -> DictConfig:
    """verl's worker renames keys of the reference policy before it reads them (ActorRolloutRefWorker.init_model)."""
    prefix, values = "log_prob_", OmegaConf.to_container(ref)
    renamed = {"max_token_len_per_gpu": "ppo_max_token_len_per_gpu", "use_dynamic_bsz": "use_dynamic_bsz"}
    renamed |= {f"micro_batch_size{suffix}": f"ppo_micro_batch_size{suffix}" for suffix in ("", "_per_gpu")}
    return OmegaConf.create({renamed.get(key.removeprefix(prefix), key): value for key, value in values.items()})


def test_a_field_of_an_objective_is_set_without_a_plus_where_its_task_left_it_out(compose: Compose) -> None:
    objectives = compose(
        "ctwa.objectives.accuracy.every=2",
        "ctwa.objectives.conciseness.gate={by: accuracy, at_least: 1}",
        "ctwa.objectives.conciseness.gate.otherwise=-1",
        "+ctwa.objectives.polite.reward_fn=ctwa.testbed.rewards:clarity",
        "ctwa.objectives.polite.weight=0.5",
    ).ctwa.objectives
    assert objectives.accuracy.every == 2
    assert objectives.conciseness.gate == {"by": "accuracy", "at_least": 1, "otherwise": -1}
    assert (objectives.polite.weight, list(objectives)) == (0.5, ["accuracy", "conciseness", "clarity", "polite"])


def overrides_of_task(task: str) -> tuple[str, ...]:
    return CUSTOM if task == "custom" else ()


# Every choice of one group meets every choice of every other group in at least one row.
@pytest.mark.parametrize(
    ("generation", "task", "engine", "estimator", "clipping", "method"),
    [
        ("transformers", "testbed", "cpu", "reinforce", "off", "linear"),
        ("transformers", "math500", "cpu", "grpo", "on", "ctwa"),
        ("transformers", "custom", "gpu", "grpo", "off", "linear"),
        ("vllm_cpu", "testbed", "gpu", "reinforce", "on", "ctwa"),
        ("transformers", "custom", "one_gpu", "grpo", "on", "ctwa"),
        ("vllm_cpu", "math500", "cpu", "grpo", "on", "linear"),
        ("vllm_cpu", "custom", "cpu", "grpo", "off", "linear"),
        ("vllm", "testbed", "cpu", "grpo", "on", "linear"),
        ("vllm", "math500", "gpu", "reinforce", "off", "ctwa"),
        ("vllm", "custom", "gpu", "reinforce", "on", "ctwa"),
    ],
)
def test_every_pair_of_choices_composes(
    compose: Compose, generation: str, task: str, engine: str, estimator: str, clipping: str, method: str
) -> None:
    config = compose(
        f"generation={generation}",
        f"task={task}",
        f"engine={engine}",
        f"estimator={estimator}",
        f"clipping={clipping}",
        f"method={method}",
        *overrides_of_task(task),
    )
    settings = read_settings(config)

    assert settings.method.type == method
    assert settings.build_scalarizer().weights == {n: o.weight for n, o in settings.objectives.items()}
    assert config.trainer.device == {"cpu": "cpu", "gpu": "cuda", "one_gpu": "cuda"}[engine]
    assert config.actor_rollout_ref.rollout.name == generation.removesuffix("_cpu")
    assert config.algorithm.adv_estimator == {"grpo": "grpo", "reinforce": "reinforce_plus_plus"}[estimator]
    assert settings.policy_loss == (Vanilla(0.2, 0.2, 3.0) if clipping == "on" else Vanilla())


@pytest.mark.parametrize(
    ("arguments", "loss"),
    [
        (["policy_loss=dr_grpo"], Vanilla(0.2, 0.2, 3.0)),
        (["policy_loss=gspo"], Gspo(3e-4, 4e-4, by_completion=True)),
        # What is written has the last word over what a choice brings along.
        (["policy_loss=gspo", "clipping=off"], Gspo(by_completion=True)),
        (["policy_loss=cispo"], Cispo(high=0.2)),
        (["policy_loss=geo_mean"], GeoMean(0.4, 0.4, by_completion=True)),
        (["policy_loss=sapo"], Sapo(1.0, 1.05, by_completion=True)),
        (["policy_loss=gpg"], Gpg()),
        (["policy_loss=dppo_tv"], DppoTv(0.2, 0.2, 20.0)),
        (["policy_loss=dppo_kl"], DppoKl(0.2, 0.2, 20.0)),
        (["policy_loss=dro", f"{ACTOR}.policy_loss.dro_beta=0.5"], Dro(0.5)),
        (["policy_loss=clip_cov", "method=linear"], None),
        (["policy_loss=kl_cov", "method=linear"], None),
    ],
    ids=lambda value: value[0].partition("=")[2] if isinstance(value, list) else "",
)
def test_every_policy_loss_composes_and_passes_the_checks(
    compose: Compose, arguments: list[str], loss: PolicyLoss | None
) -> None:
    config = compose(*arguments)
    set_environment(config)

    assert check_config(config).policy_loss == loss
    check_with_verl(config)
    assert (config.algorithm.norm_adv_by_std_in_grpo is False) == (arguments == ["policy_loss=dr_grpo"])


@pytest.mark.parametrize("engine", ["cpu", "gpu"])
@pytest.mark.parametrize("task", ["testbed", "math500", "custom"])
def test_verl_accepts_every_task_on_every_engine(compose: Compose, task: str, engine: str) -> None:
    from verl.utils.config import omega_conf_to_dataclass

    config = compose(f"task={task}", f"engine={engine}", *overrides_of_task(task))
    set_environment(config)

    check_config(config)
    check_with_verl(config)
    assert omega_conf_to_dataclass(ref_as_its_worker_reads_it(config.actor_rollout_ref.ref)).engine.forward_only
    # The model's own part reads the model from disk, as the trainer will.
    assert omega_conf_to_dataclass(config.actor_rollout_ref.model).tokenizer.eos_token == "<eos>"


def test_engine_gpu_brings_vllm_and_fits_its_context_to_the_task(compose: Compose) -> None:
    rollout = compose("task=math500", "engine=gpu").actor_rollout_ref.rollout

    assert rollout.name == "vllm"
    assert rollout.max_model_len == 2048
    assert rollout.free_cache_engine  # vLLM's memory is the trainer's while it trains
    assert compose("task=math500", "engine=gpu", "data.max_response_length=512").actor_rollout_ref.rollout[
        "max_model_len"
    ] == (1024 + 512)


def test_engine_gpu_looks_for_completions_less_often_and_leaves_seeds_to_vllm(compose: Compose) -> None:
    """Seeds of its own for each completion are a choice there: vLLM then samples row by row."""
    config, seeded = (
        compose("task=math500", "engine=gpu", *overrides)
        for overrides in ([], ["actor_rollout_ref.rollout.agent.default_agent_loop=ctwa_single_turn"])
    )

    assert read_settings(config).poll_interval == 0.5
    assert read_settings(compose()).poll_interval == 0.05
    assert config.actor_rollout_ref.rollout.agent.default_agent_loop == "single_turn_agent"
    check_config(seeded)


def test_math500_has_the_hyperparameters_of_the_paper(compose: Compose) -> None:
    config = compose("task=math500", "engine=gpu", "method=ctwa")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout

    assert config.data.train_batch_size == actor.ppo_mini_batch_size == 32
    assert (rollout.n, rollout.temperature) == (16, 1.0)
    assert (rollout.val_kwargs.temperature, rollout.val_kwargs.do_sample, rollout.val_kwargs.n) == (0, False, 1)
    assert (config.data.max_prompt_length, config.data.max_response_length) == (1024, 1024)
    assert (actor.optim.lr, actor.optim.lr_scheduler_type) == (1e-6, "constant")
    assert (actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (True, 0.001, "low_var_kl")
    assert (actor.entropy_coeff, actor.clip_ratio_low, actor.clip_ratio_high) == (0, 0.2, 0.2)
    assert config.trainer.total_epochs == 90
    assert num_steps(config, read_run_data(config)) == 810
    settings = read_settings(config)
    assert settings.build_scalarizer().weights == {"accuracy": 0.333, "conciseness": 0.333, "clarity": 0.334}
    assert settings.build_scalarizer().covariance_targets == {"accuracy": 0.15, "conciseness": 0.08, "clarity": 0.08}
    assert (settings.method.eta, settings.method.tau) == (0.05, 0.1)
    assert settings.reference_length.needs_validation


@pytest.mark.parametrize(
    ("choices", "targets"),
    [
        (["method=ctwa"], [0.15, 0.08, 0.08]),
        (["method=ctwa", "ctwa.method.measure=correlation"], [None, None, None]),
        (
            [
                "method=lagrangian",
                "ctwa.method.objective=accuracy",
                "ctwa.method.targets={conciseness:0.9,clarity:0.9}",
            ],
            [None, None, None],
        ),
        (["method=linear"], [None, None, None]),
    ],
)
def test_the_run_s_targets_are_of_covariances_alone(
    compose: Compose, choices: list[str], targets: list[float | None]
) -> None:
    config = compose("task=math500", *choices)

    objectives = TrainJob(config).info().objectives

    assert [objectives[name].target for name in ("accuracy", "conciseness", "clarity")] == targets


def test_the_reference_policy_of_the_kl_loss_runs_as_the_policy_does(compose: Compose) -> None:
    config = compose("task=math500", "engine=cpu")
    actor, ref = config.actor_rollout_ref.actor, config.actor_rollout_ref.ref

    assert actor.use_kl_loss
    assert (ref.strategy, ref.log_prob_use_dynamic_bsz) == ("fsdp2", True)
    assert ref.log_prob_max_token_len_per_gpu == actor.ppo_max_token_len_per_gpu
    assert ref.fsdp_config.mixed_precision == actor.fsdp_config.mixed_precision


def test_one_seed_reaches_everything_that_draws(compose: Compose) -> None:
    config = compose("ctwa.seed=7")

    assert config.data.seed == 7
    assert config.actor_rollout_ref.rollout.seed == 7
    assert config.actor_rollout_ref.actor.fsdp_config.seed == 7


def test_relative_paths_mean_the_users_current_directory(monkeypatch: pytest.MonkeyPatch, task_dir: Path) -> None:
    monkeypatch.chdir(task_dir.parent)
    config = compose_config(["ctwa.run=runs/a", f"ctwa.task_dir={task_dir.name}"])

    assert config.ctwa.run == str(task_dir.parent / "runs/a")
    assert config.data.train_files == [str(task_dir / "train.parquet")]
    assert config.actor_rollout_ref.model.path == str(task_dir / "model")


@pytest.mark.parametrize("task", ["testbed", "math500"])
def test_a_task_without_its_folder_says_so(task: str) -> None:
    with pytest.raises(CtwaError, match=r"^ctwa\.task_dir is missing, and .*data\.train_files.*: give the folder$"):
        compose_config(["ctwa.run=runs/a", f"task={task}"])


@pytest.mark.parametrize("missing", ["data.train_files", "actor_rollout_ref.model.path"])
def test_a_custom_task_names_what_it_needs(missing: str) -> None:
    given = {"data.train_files": "a.parquet", "data.val_files": "b.parquet", "actor_rollout_ref.model.path": "a/model"}
    overrides = [f"{key}={value}" for key, value in given.items() if key != missing]

    with pytest.raises(CtwaError, match=f"{missing} is missing: give a "):
        compose_config(["ctwa.run=runs/a", "task=custom", *overrides])


def test_a_key_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        CtwaError, match=r"^actor_rollout_ref\.rolout\.n is no key .* mean actor_rollout_ref\.rollout\.n\?$"
    ):
        compose_config(["ctwa.run=runs/a", "actor_rollout_ref.rolout.n=4"])


def test_a_task_file_of_the_users_own_composes(tmp_path: Path, compose: Compose) -> None:
    (tmp_path / "task").mkdir()
    own = (ROOT / "ctwa/config/task/testbed.yaml").read_text().replace("train_batch_size: 16", "train_batch_size: 8")
    (tmp_path / "task" / "mine.yaml").write_text(own)

    for place in (str(tmp_path), f"file://{tmp_path}"):
        assert compose(f"hydra.searchpath=[{place}]", "task=mine").data.train_batch_size == 8


def test_the_task_file_and_the_file_of_settings_of_the_documents_compose(tmp_path: Path) -> None:
    found = [
        re.findall(rf"^```yaml\n({first}\n.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
        for document, first in {"CONTRIBUTING.md": "# @package _global_", "docs/training.md": "task: custom"}.items()
    ]
    [[task], [settings]] = found
    (tmp_path / "task").mkdir()
    for name, text in {"task/mine.yaml": task, "mine.yaml": settings}.items():
        (tmp_path / name).write_text(text)
    of_task = compose_config(
        [f"hydra.searchpath=[{tmp_path}]", "task=mine", "ctwa.run=run", f"ctwa.task_dir={tmp_path}"]
    )
    for config in (of_task, compose_config([str(tmp_path / "mine.yaml")])):
        assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-0.5B-Instruct"
        assert config.ctwa.objectives.polite.weight == 0.5
        assert config.actor_rollout_ref.actor.optim.lr == 1e-6  # of custom.yaml


def test_a_method_of_the_users_own_composes_beside_ours(tmp_path: Path, compose: Compose) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "gentle.yaml").write_text("# @package ctwa.method\ntype: probe\neta: 0.01\n")
    place = f"hydra.searchpath=[{tmp_path}]"

    method = read_settings(compose(place, "method=gentle", "+ctwa.method.clip=1.1")).method
    assert (method.type, method.eta, method.clip, method.tau) == ("probe", 0.01, 1.1, 0.1)
    assert compose(place, "method=mgda").ctwa.method == {"type": "mgda"}


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("train", ["method=cagrad", "ctwa.method.c=0.5", "ctwa.alarms.drop=0.2", "ctwa.gradients.refresh_every=2"]),
        (
            "caid",
            ["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.caid.beta=0.2", "ctwa.diagnostics.covariance=in_update"],
        ),
        ("prefer", ["method=raco", "loss=simpo", "ctwa.method.c=0.5", "ctwa.loss.gamma=1.0", "ctwa.alarms.drop=0.2"]),
        ("train", ["ctwa.method.eta=0.1", "ctwa.rewards.num_workers=3"]),  # and no command has another's groups
    ],
)
def test_every_default_of_a_class_is_a_key_to_override(command: str, overrides: list[str]) -> None:
    config = compose_config(["ctwa.run=run", "ctwa.task_dir=task", *overrides], command=command)

    for key, value in (override.split("=", 1) for override in overrides if "{" not in override and "." in override):
        assert OmegaConf.select(config, key) == OmegaConf.create([yaml.safe_load(value)])[0]


def test_the_resolved_configuration_is_plain_data(testbed_config: DictConfig) -> None:
    """It is written to config.yaml and read back by whoever looks at a run."""
    text = OmegaConf.to_yaml(testbed_config)

    assert "${" not in text
    assert OmegaConf.create(text) == testbed_config


def test_composing_and_checking_the_configuration_imports_neither_verl_nor_ray() -> None:
    """Their import takes seconds, and a path that is wrong is told without it."""
    program = """
import sys
from ctwa.engine.checks.bounds import ACTOR
from ctwa.engine.compose import compose_config
from ctwa.engine.job import execute
from ctwa.engine.train_job import TrainJob
from ctwa.engine.checks.config import check_disk
from ctwa.errors import CtwaError
try:
    check_disk(compose_config(["ctwa.run=runs/a", "ctwa.task_dir=/nowhere"]))
except CtwaError as error:
    assert "/nowhere does not exist" in str(error)
    print(*sorted({'verl', 'ray', 'transformers', 'pandas'} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert result.stdout.split() == []
