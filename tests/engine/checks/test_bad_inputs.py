"""What cannot be meant is refused in one sentence that names it, before anything else reads the configuration."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import cache, reduce
from importlib import import_module
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ctwa.engine import compose as composing
from ctwa.engine.checks.bounds import BOUNDS, bounds_of, out_of_bounds
from ctwa.engine.checks.keys import DEAD, NO_DEFAULT, SYNONYMS, dotted, known_keys, near_key, unread, wrong_keys
from ctwa.engine.compose import settle
from ctwa.engine.groups import SETTINGS
from ctwa.errors import CtwaError
from ctwa.run.dotted import dotted as values_of
from tests.conftest import ROOT
from tests.engine.names import ACTOR, MODEL, OPTIM, ROLLOUT

COMMANDS = ("train", "prefer", "caid")
NEEDED = {"caid": ["ctwa.caid.thresholds={accuracy:0.1}"]}


@cache
def composed(command: str) -> DictConfig:
    """Hydra's part, which takes most of the time, once for all values."""
    own = ["ctwa.run=run", "ctwa.task_dir=task", *NEEDED.get(command, [])]
    return composing._compose(own, command)


@cache
def plain(command: str, *, resolve: bool) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(composed(command), resolve=resolve)
    return container


def with_override(config: dict[str, Any], override: str) -> dict[str, Any]:
    (parsed,) = OverridesParser.create().parse_overrides([override])
    changed = node = copy.deepcopy(config)
    *sections, last = parsed.key_or_group.split(".")
    for section in sections:
        node[section] = dict(node.get(section) or {})
        node = node[section]
    node[last] = parsed.value()
    return changed


def mistakes(command: str, override: str) -> dict[str, str]:
    """What `settle` would tell of the command's configuration with one more override."""
    known = known_keys(command)
    names = dotted(known) + dotted(plain(command, resolve=False)["ctwa"], "ctwa.")
    raw = with_override(plain(command, resolve=False), override)
    return wrong_keys(raw, known, lambda key: near_key(key, [*names, "method"])) or out_of_bounds(
        with_override(plain(command, resolve=True), override), bounds_of(SETTINGS[command], "ctwa")
    )


def settled(command: str, override: str) -> DictConfig:
    """The configuration with one more override, as the command settles it."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    config = copy.deepcopy(composed(command))
    OmegaConf.update(config, parsed.key_or_group, parsed.value(), force_add=parsed.is_add())
    settle(config, command, [parsed.key_or_group])
    return config


VALUES = """
    trainer.use_v1=false trainer.val_only=true trainer.resume_mode=foo trainer.resume_mode=auto critic.enable=true
    reward.custom_reward_function.path=/nowhere.py actor_rollout_ref.rollout.mode=foo
    actor_rollout_ref.rollout.mode=sync actor_rollout_ref.rollout.load_format=foo
    data.train_files=null data.train_files=5 data.train_files=[] data.train_files=[5] data.train_files=''
    data.train_files=true data.train_files=[a.parquet,null] data.train_files=(a:1)
    data.val_files=5 data.val_files=[]
    data.train_batch_size=0 data.train_batch_size=abc data.train_batch_size=null data.train_batch_size=-8
    data.train_batch_size=2.5 data.train_batch_size=true data.train_batch_size=1e3 data.train_batch_size='16'
    data.train_batch_size=[16] data.train_batch_size=10000000000
    data.max_prompt_length=0 data.max_prompt_length=-1 data.max_prompt_length=null data.max_prompt_length=16.5
    data.max_response_length=0 data.max_response_length=-80 data.max_response_length=long
    data.train_max_samples=0 data.train_max_samples=-2 data.val_max_samples=0 data.val_max_samples=1.5
    data.seed=-1 data.seed=one data.dataloader_num_workers=100000 data.dataloader_num_workers=-1
    data.filter_overlong_prompts_workers=0 data.filter_overlong_prompts=perhaps data.shuffle=1 data.truncation=top
    data.prompt_key=null data.gen_batch_size=0
    trainer.total_training_steps=0 trainer.total_training_steps=-1 trainer.total_training_steps=ten
    trainer.total_training_steps=2.5 trainer.total_epochs=0 trainer.total_epochs=null trainer.total_epochs=-3
    trainer.nnodes=0 trainer.nnodes=-1 trainer.nnodes=null trainer.n_gpus_per_node=0 trainer.n_gpus_per_node=two
    trainer.n_gpus_per_node=1.5 trainer.n_gpus_per_node=null trainer.save_freq=0 trainer.save_freq=-2
    trainer.save_freq=null trainer.test_freq=0 trainer.test_freq=often trainer.device=gpu trainer.device=null
    trainer.logger=5 trainer.logger=[wandbb] trainer.val_before_train=no_ trainer.max_actor_ckpt_to_keep=0
    trainer.project_name=''
    {A}.ppo_mini_batch_size=0 {A}.ppo_mini_batch_size=-4 {A}.ppo_mini_batch_size=null {A}.ppo_mini_batch_size=1.5
    {A}.ppo_micro_batch_size_per_gpu=0 {A}.ppo_max_token_len_per_gpu=0 {A}.ppo_max_token_len_per_gpu=null
    {A}.ppo_epochs=0 {A}.ppo_epochs=1.5 {A}.clip_ratio=-0.2 {A}.clip_ratio=nan {A}.clip_ratio_low=-1
    {A}.clip_ratio_c=0.5 {A}.clip_ratio_c=null {A}.entropy_coeff=nan {A}.entropy_coeff=much {A}.kl_loss_coef=-1
    {A}.kl_loss_coef=inf {A}.kl_loss_type=forward {A}.loss_agg_mode=mean {A}.use_kl_loss=maybe {A}.use_kl_loss=1
    {A}.strategy=ddp {A}.strategy=null {A}.ulysses_sequence_parallel_size=0 {A}.use_dynamic_bsz=auto
    {O}.lr=-1 {O}.lr=nan {O}.lr=1e6 {O}.lr=1e-4x {O}.lr=null {O}.lr='1e-4' {O}.lr=inf {O}.lr=[1e-4] {O}.lr=true
    {O}.weight_decay=-0.1 {O}.weight_decay=nan {O}.betas=0.9 {O}.betas=[0.9] {O}.betas=[0.9,1.0] {O}.betas=[0.9,-1]
    {O}.clip_grad=-1 {O}.clip_grad=0 {O}.clip_grad=null {O}.lr_warmup_steps=-5 {O}.lr_warmup_steps_ratio=2
    {O}.lr_scheduler_type=linear
    {A}.fsdp_config.fsdp_size=0 {A}.fsdp_config.param_offload=some {A}.fsdp_config.model_dtype=int8
    {R}.n=0 {R}.n=2.5 {R}.n=-1 {R}.n=null {R}.n=many {R}.temperature=-1 {R}.temperature=0 {R}.temperature=hot
    {R}.temperature=nan {R}.temperature=null {R}.top_p=7 {R}.top_p=0 {R}.top_p=-0.5 {R}.top_p=null {R}.top_k=-2
    {R}.top_k=2.5 {R}.seed=-1 {R}.gpu_memory_utilization=1.5 {R}.gpu_memory_utilization=0
    {R}.tensor_model_parallel_size=0 {R}.max_model_len=0 {R}.max_num_seqs=0 {R}.agent.num_workers=0
    {R}.agent.num_workers=100000 {R}.val_kwargs.n=0 {R}.val_kwargs.n=1.5 {R}.val_kwargs.temperature=-1
    {R}.val_kwargs.top_p=2 {R}.val_kwargs.do_sample=sometimes {R}.response_length=0
    {R}.log_prob_micro_batch_size_per_gpu=0 {R}.enforce_eager=x
    {M}.path=null {M}.path=5 {M}.path='' {M}.path=[a] {M}.lora_rank=-1 {M}.lora_rank=half
    {M}.enable_gradient_checkpointing=5
    algorithm.adv_estimator=[grpo] algorithm.adv_estimator=null {R}.name=vlm {R}.name=sglang {R}.name=null
    {A}.checkpoint.save_contents=5 {A}.checkpoint.save_contents=[modle] {A}.fsdp_config.dtype=foo
    {A}.fsdp_config.mixed_precision.param_dtype=fp8 {R}.dtype=fp8 {R}.dtype=bf16 {R}.trace.backend=langfuse
    algorithm.rollout_correction.rollout_is=nonsense algorithm.rollout_correction.rollout_rs=nonsense
    algorithm.rollout_correction.rollout_rs=token_k1,nonsense
    algorithm.gamma=2 algorithm.norm_adv_by_std_in_grpo=2 algorithm.use_kl_in_reward=x
    algorithm.kl_penalty=full algorithm.kl_ctrl.type=on algorithm.kl_ctrl.kl_coef=-1 algorithm.kl_ctrl.target_kl=0
    algorithm.kl_ctrl.horizon=0
    reward.num_workers=-1 ray_kwargs.ray_init.num_cpus=0 ray_kwargs.ray_init.num_cpus=many
    transfer_queue.backend.SimpleStorage.num_data_storage_units=0
    ctwa.run=null ctwa.run='' ctwa.run=5 ctwa.run=[a] ctwa.resume=maybe ctwa.resume=1 ctwa.seed=-1 ctwa.seed=1.5
    ctwa.seed=null ctwa.seed=x ctwa.seed=1e20  ctwa.task_dir=5 ctwa.task_dir=''
    ctwa.rewards.num_workers=0 ctwa.rewards.num_workers=100000 ctwa.rewards.max_unscored=2
    ctwa.rewards.max_unscored=nan ctwa.num_samples=-1 ctwa.num_samples=1.5 ctwa.print_every=0 ctwa.poll_interval=0
    ctwa.poll_interval=-1 ctwa.poll_interval=1e9 ctwa.stop_on=5 ctwa.stop_on=null ctwa.stop_on=(a:1)
    ctwa.objectives.accuracy.weight=1e308 ctwa.objectives.accuracy.weight=nan ctwa.objectives.accuracy.weight=-1
    ctwa.objectives.accuracy.weight=heavy ctwa.objectives.accuracy.weight=null
    ctwa.objectives.accuracy.target=nan ctwa.objectives.accuracy.target=1e308
    ctwa.method.eta=1e308 ctwa.method.eta=nan ctwa.method.tau=-inf ctwa.alarms.drop=1e300
    ctwa.gradients.refresh_every=0 ctwa.gradients.last_layers=0 ctwa.gradients.half_life=0
    ctwa.diagnostics.gradients_every=-1
    ctwa.diagnostics.held_out_prompts=1
    ctwa=5 ctwa=null trainer=null trainer=5 actor_rollout_ref=null {A}=null {O}=5 {R}=none ctwa.rewards=null
    ray_kwargs.ray_init=null ctwa.diagnostics=4
"""


def written_out(table: str) -> list[str]:
    return [text.replace("(a:1)", "{a:1}") for text in table.format(A=ACTOR, O=OPTIM, R=ROLLOUT, M=MODEL).split()]


def refused(command: str, override: str) -> None:
    key = override.partition("=")[0]
    told = mistakes(command, override)[key]
    assert told.startswith(f"{key}=")
    assert len(told.splitlines()) == 1
    assert ": write " in told


@pytest.mark.parametrize("override", written_out(VALUES))
def test_a_value_that_cannot_be(override: str) -> None:
    refused("train", override)


VALUES_OF_PREFER = """
    {A}.ppo_micro_batch_size_per_gpu=0 trainer.n_gpus_per_node=0 data.train_batch_size=text data.train_batch_size=0
    ctwa.max_length=1 ctwa.validation_share=1 ctwa.validation_share=nan ctwa.run=null trainer.total_training_steps=0
    ctwa.objectives.accuracy.weight=1e308 ctwa.objectives.accuracy.weight=-1
"""


@pytest.mark.parametrize("override", written_out(VALUES_OF_PREFER))
def test_a_value_of_prefer_that_cannot_be(override: str) -> None:
    refused("prefer", override)


@pytest.mark.parametrize(
    "override",
    ["ctwa.caid.iterations=0", "ctwa.pairs_per_prompt=0", "ctwa.steps_per_iteration=2.5", "ctwa.caid.beta=inf"],
)
def test_a_value_of_caid_that_cannot_be(override: str) -> None:
    refused("caid", override)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_that_others_follow_from_is_told_alone(command: str) -> None:
    with pytest.raises(CtwaError) as error:
        settled(command, "ctwa.seed=-1")

    assert str(error.value) == "ctwa.seed=-1 is not possible: write a whole number from 0 to 2147483647"


GOOD = """
    trainer.total_training_steps=null trainer.save_freq=-1 trainer.test_freq=-1 trainer.logger=tensorboard
    trainer.logger=[tensorboard,wandb] data.train_files=[a.parquet,b.parquet] data.val_max_samples=16 {A}.strategy=fsdp
    {O}.lr=0 {O}.lr=1e-6 {O}.lr_warmup_steps=10 {O}.lr_scheduler_type=cosine {O}.clip_grad=1000 {A}.entropy_coeff=-0.01
    {A}.clip_ratio_high=0.28 {R}.top_p=0.95 {R}.top_k=50 {R}.val_kwargs.n=4 {R}.max_model_len=null
    +{R}.engine_kwargs.vllm.swap_space=4 +{M}.override_config.sliding_window=64
    +{M}.target_parameters=null {M}.lora_rank=8 {M}.lora_alpha=16 +data.cache_dir=/tmp/cache
    +data.apply_chat_template_kwargs.enable_thinking=false ray_kwargs.ray_init.address=auto
    ray_kwargs.ray_init.num_cpus=null +ray_kwargs.ray_init.runtime_env.pip=null ctwa.stop_on=drop ctwa.stop_on=[drop]
    +ctwa.objectives.accuracy.timeout=5 +ctwa.objectives.accuracy.kwargs.limit=5 ctwa.diagnostics.probe=backward
    +{A}.fsdp_config.mixed_precision.param_dtype=bf16 {A}.grad_clip=1.0 ctwa.reference_length=null
    +ctwa.reference_length.type=fixed algorithm.rollout_correction.rollout_is=token
    algorithm.rollout_correction.rollout_rs='token_k1,seq_max_k2' {R}.dtype=bfloat16 {R}.trace.backend=mlflow
"""


@pytest.mark.parametrize("override", written_out(GOOD))
def test_a_value_that_may_be(override: str) -> None:
    assert mistakes("train", override) == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_joins_the_ray_at_an_address(command: str) -> None:
    assert settled(command, "ray_kwargs.ray_init.address=auto").ray_kwargs.ray_init.address == "auto"


UNKNOWN = [
    (f"+{OPTIM}.learning_rate=1e-5", f"{OPTIM}.lr"),
    ("+learning_rate=1e-5", f"{OPTIM}.lr"),
    ("+metod=ctwa", "method"),
    ("+method_=ctwa", "method"),
    ("+data.train_file=a.parquet", "data.train_files"),
    ("+data.max_respons_length=5", "data.max_response_length"),
    ("+trainer.total_trainig_steps=5", "trainer.total_training_steps"),
    ("+trainer.max_steps=5", "trainer.total_training_steps"),
    ("+trainer.ngpus_per_node=5", "trainer.n_gpus_per_node"),
    (f"+{ROLLOUT}.temprature=1", f"{ROLLOUT}.temperature"),
    (f"+{ROLLOUT}.num_generations=1", f"{ROLLOUT}.n"),
    (f"+{ROLLOUT}.val_kwargs.temprature=1", f"{ROLLOUT}.val_kwargs.temperature"),
    (f"+{ACTOR}.max_grad_norm=1", f"{OPTIM}.clip_grad"),
    (f"+{OPTIM}.grad_clip=1", f"{OPTIM}.clip_grad"),
    (f"+{ACTOR}.use_kl_los=true", f"{ACTOR}.use_kl_loss"),
    ("+actor_rollout_ref.actr.optim.lr=1", ACTOR),
    ("+optim.lr=1", OPTIM),
    ("+ctwa.sed=1", "ctwa.seed"),
    ("+ctwa.stop_no=[drop]", "ctwa.stop_on"),
    ("+ctwa.rewards.num_worker=1", "ctwa.rewards.num_workers"),
    ("+ctwa.objectves.accuracy.weight=1", "ctwa.objectives"),
    ("+ctwa.diagnostics.prob=backward", "ctwa.diagnostics.probe"),
    ("+completely.other=1", None),
]


@pytest.mark.parametrize(("override", "meant"), UNKNOWN, ids=[override for override, _ in UNKNOWN])
def test_a_key_that_is_none_is_refused_with_the_one_that_was_meant(override: str, meant: str | None) -> None:
    """Hydra's advice, a plus, makes it no key."""
    (told,) = mistakes("train", override).values()

    assert " is no key of the configuration" in told
    assert told.endswith("configuration" if meant is None else f"; did you mean {meant}?")


@pytest.mark.parametrize("key", DEAD)
def test_a_key_that_nothing_reads_is_refused_with_the_one_that_is_read(key: str) -> None:
    instead, default = DEAD[key], reduce(getitem, key.split("."), known_keys("train"))
    if isinstance(default, dict) and default:  # a section, of which every key is
        inside = values_of({key: default})
        key, default = next((each, inside[each]) for each in inside if each not in BOUNDS and "_target_" not in each)
    other = {True: "false", False: "true"}[default] if isinstance(default, bool) else "7"
    told = mistakes("train", f"{key}={other}")[key]

    assert told == f"{key}={other} would do nothing, for nothing reads this key of verl: {instead}"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_script_of_verls_says_without_asking_for_anything_is_no_mistake(command: str) -> None:
    """Defaults, and a null or false where nothing is by default."""
    known = known_keys(command)
    for dead in DEAD:
        for key, default in values_of({dead: reduce(getitem, dead.split("."), known)}).items():
            assert not unread(key, default, known), key
            assert default or not any(unread(key, empty, known) for empty in (None, False, "")), key


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        ("custom_reward_function.path=my.py", "write ctwa.objectives, "),
        ("trainer.default_local_dir=/disk/run", "write ctwa.run, "),
        ("reward.reward_manager.name=dapo", "leave it out, "),
        ("critic.optim.lr=1e-4", "leave it out, for no method has a critic"),
        ("reward_model.enable=true", "write ctwa.objectives, "),
    ],
)
def test_what_scripts_of_verls_often_have_is_refused_with_what_counts_here(setting: str, instead: str) -> None:
    assert f" would do nothing, for nothing reads this key of verl: {instead}" in str(mistakes("train", setting))


@pytest.mark.parametrize("override", ["ctwa.seed='0'", "data.train_batch_size='16'", "data.image_patch_size='14'"])
def test_a_number_in_quotes_is_told_with_them(override: str) -> None:
    assert f"{override}, a text, is not possible: write a" in str(mistakes("train", override))


def test_the_clipping_of_gradients_is_at_the_key_that_is_read() -> None:
    for command in COMMANDS:
        config = settled(command, f"{OPTIM}.clip_grad=0.5")
        assert config.actor_rollout_ref.actor.optim.clip_grad == 0.5
    with pytest.raises(CtwaError, match=rf"grad_clip=0\.1 would do nothing, .*: write {OPTIM}\.clip_grad$"):
        settled("train", f"{ACTOR}.grad_clip=0.1")


class TestTables:
    def test_every_bound_is_of_a_key_there_is(self) -> None:
        known = {key for command in COMMANDS for key in dotted(known_keys(command))}

        assert {key for key in BOUNDS if "*" not in key} <= known

    def test_every_key_to_be_written_instead_is_one(self) -> None:
        known = {*dotted(known_keys("train")), "ctwa.objectives"}

        assert set(SYNONYMS.values()) <= known
        assert set(DEAD) <= known
        advised = {instead.split()[1].partition("=")[0].rstrip(",") for instead in DEAD.values() if "write" in instead}
        assert advised <= known
        assert not advised & set(DEAD)

    def test_the_keys_without_a_default_are_those_that_verl_reads(self) -> None:
        """Fields of the dataclass that verl makes of the section, or names in its source."""
        verl = Path(import_module("verl").__file__ or "").parent
        source = "".join(
            path.read_text()
            for folder in ("workers", "utils", "trainer", "experimental/reward_loop")
            for path in (verl / folder).rglob("*.py")
        )
        for section, names in NO_DEFAULT.items():
            node: Any = known_keys("train")
            for part in section.split("."):
                node = node[part]
            fields: set[str] = set()
            if "_target_" in node:
                module, _, name = node["_target_"].rpartition(".")
                fields = set(getattr(import_module(module), name).__dataclass_fields__)
            for key in names:
                assert key in fields or f'"{key}"' in source, f"{section}.{key}"


def test_the_command_ends_with_2_and_one_line() -> None:
    """Whatever is imported before: a process of its own, and one for all, for the imports take seconds."""
    wrong = [
        ["train", "--learning-rate", "1e-5"],
        ["prefer", "data.train_batch_size=-8"],
        ["caid", "ctwa.run="],
    ]
    program = f"""
import sys
from ctwa.cli import main
for words in {wrong}:
    sys.argv[1:] = [*words, "--dry-run"]
    try:
        main()
    except SystemExit as end:
        print(end.code)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert result.stdout.split() == ["2", "2", "2"]
    assert [line.startswith("error: ") for line in result.stderr.splitlines()] == [True] * 3


@pytest.mark.parametrize("command", COMMANDS)
def test_the_packaged_files_have_no_key_that_is_none(command: str) -> None:
    assert mistakes(command, "ctwa.seed=3") == {}
