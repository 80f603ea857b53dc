"""What `ctwa prefer` and `ctwa caid` refuse before anything starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig

from ctwa.engine.caid_samples import REFERENCE_FILE, PolicySampler, Samples, origin_of
from ctwa.engine.caid_settings import read_caid_settings
from ctwa.engine.compose import compose_config
from ctwa.engine.pairs.data import choose_device, load_policy
from ctwa.engine.prefer_job import PreferJob, check_preference_config, prepare_data
from ctwa.engine.sampling import Sampler
from ctwa.errors import CtwaError
from ctwa.models.seal import seal
from ctwa.preference.log_probs import response_log_probs
from ctwa.preference.losses import PairLogProbs, objective_losses
from ctwa.preference.modpo import Modpo
from ctwa.run.folder import RunFolder
from ctwa.testbed.model import build_model
from ctwa.testbed.preferences import make_preferences
from ctwa.testbed.tokenizer import build_tokenizer

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def prefer(task_dir: Path) -> Compose:
    if not (task_dir / "pairs").exists():
        make_preferences("D", task_dir / "pairs", num_train=40, num_validation=10, num_test=4)

    def compose(*overrides: str) -> DictConfig:
        own = ["ctwa.run=run", f"ctwa.task_dir={task_dir}", "data.train_batch_size=8"]
        return compose_config([*own, *overrides], command="prefer")

    return compose


@pytest.fixture(scope="module")
def caid(task_dir: Path) -> Compose:
    def compose(*overrides: str) -> DictConfig:
        own = ["ctwa.run=run", f"ctwa.task_dir={task_dir}"]
        return compose_config([*own, *overrides], command="caid")

    return compose


def test_chat_pairs_are_written_with_the_variables_of_the_template(prefer: Compose, tmp_path: Path) -> None:
    answers = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "1"), ("rejected", "2"))}
    rows = [{"prompt": [{"role": "user", "content": f"{n} + 1"}], **answers} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengths = []
    for more in ([], ["+data.apply_chat_template_kwargs.mark='mod '"]):
        config = prefer(
            "~ctwa.objectives",
            f"+ctwa.objectives={{accuracy:{{data:'{tmp_path}/pairs.jsonl',weight:1}}}}",
            "data.train_batch_size=2",
            "method=linear",
            *more,
        )
        config.actor_rollout_ref.model.custom_chat_template = (
            "{% for m in messages %}{% if m.role == 'user' %}{{ mark or '' }}{% endif %}{{ m.content }} {% endfor %}"
        )
        data, _, _ = prepare_data(config, check_preference_config(config))
        lengths.append({len(each.prompt) for part in data.train for each in part.pairs})

    assert lengths == [{3}, {4}]


def test_the_plan_says_what_a_step_costs(prefer: Compose) -> None:
    for method, passes in {"raco": "1 forward and 2 backward", "linear": "1 forward and 1 backward"}.items():
        config = prefer(f"method={method}", "ctwa.early_stopping={patience:7}")
        job = PreferJob(config)
        text = job.plan()
        assert "a step       8 pairs, at most 1,536 tokens\n" in text
        assert f"update ({passes} of the pairs)\n" in text
        assert "its log-probabilities of 50 pairs, 1 forward before the first step; 16 bytes a pair are kept" in text
        assert "40 of" in text
        assert "10 to validate" in text
        assert f"{job.num_steps}, fewer if 7 validations in a row are no better" in text


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("ctwa.objectives.accuracy.label=labels.humour", "labels.humour"),
        ("ctwa.objectives.accuracy.weight=-1", "accuracy.weight"),
        ("ctwa.objectives.accuracy.data=none.parquet", "none.parquet"),
        ("ctwa.objectives.accuracy.validation=null", "share the pairs"),
        ("ctwa.max_length=8", "exceed 8"),
        ("data.train_batch_size=7", "divide over 2 ranks"),
        ("data.train_batch_size=64", "the smallest has 40"),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3", "multiple"),
        ("actor_rollout_ref.actor.strategy=fsdp", "write fsdp2"),
        ("actor_rollout_ref.model.path=/nowhere/model", "/nowhere/model does not exist"),
        ("ctwa.stop_on=[sadness]", "stop_on"),
        ("method=linear ctwa.gradients.passes=sequential", "passes=sequential does nothing with method=linear"),
        ("ctwa.validation_share=0.2", "validation_share=0.2 does nothing with a validation of every objective's own"),
        ("loss=simpo ctwa.reference_cache=refs", "does nothing with loss=simpo, which has no reference"),
        ("+ctwa.method.mu=1", "mu"),
    ],
)
def test_a_mistake_is_named(prefer: Compose, override: str, told: str) -> None:
    def prepare() -> None:
        config = prefer(*override.split())
        prepare_data(config, check_preference_config(config))

    with pytest.raises(CtwaError, match=told):
        prepare()


def test_a_budget_of_tokens_holds_the_two_responses_of_a_pair(prefer: Compose, caid: Compose) -> None:
    dynamic = ["actor_rollout_ref.actor.use_dynamic_bsz=true", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=191"]

    check_preference_config(prefer(dynamic[1]))
    with pytest.raises(CtwaError, match=r"ppo_max_token_len_per_gpu=191 .* 2 x ctwa\.max_length = 192: write 192"):
        check_preference_config(prefer(*dynamic))
    with pytest.raises(CtwaError, match=r"ppo_max_token_len_per_gpu=191 .* = 192: write 192 or more"):
        read_caid_settings(caid("ctwa.caid.thresholds={accuracy:0.1}", *dynamic))


@pytest.mark.parametrize("wants", ["method=raco", "method=linear ctwa.diagnostics.gradients_every=2"])
def test_what_does_not_stand_several_backward_passes(prefer: Compose, wants: str) -> None:
    model, actor = "actor_rollout_ref.model", "actor_rollout_ref.actor"
    sequential = [f"{model}.use_liger=true", f"{model}.enable_activation_offload=true"]
    never = [f"{actor}.fsdp_config.offload_policy=true", f"{actor}.strategy=fsdp"]
    for override in sequential + never:
        config = prefer(*wants.split(), override)
        with pytest.raises(CtwaError, match="passes=sequential" if override in sequential else "write"):
            check_preference_config(config)
        config.ctwa.method, config.ctwa.diagnostics.gradients_every = {"type": "linear"}, 0
        check_preference_config(config)
    with pytest.raises(CtwaError, match=r"write ctwa\.gradients\.gram=plain"):
        check_preference_config(prefer(*wants.split(), "ctwa.gradients.gram=cross_fitted"))


def test_a_model_that_is_not_in_order_is_named_before_anything_starts(
    prefer: Compose, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, key = prefer(), "actor_rollout_ref.model.path"

    def said(model: Path | str) -> str:
        config.actor_rollout_ref.model.path = str(model)
        with pytest.raises(CtwaError, match=f"^{key}: {model} ") as error:
            prepare_data(config, check_preference_config(config))
        return str(error.value)

    broken = {
        "config.json": ("{", "has a config.json that is not JSON"),
        "model.safetensors": ("", "has a model.safetensors that is cut off"),
        "tokenizer.json": ("{}", "has no tokenizer that can be loaded"),
    }
    for name, (content, sentence) in broken.items():
        copy = shutil.copytree(task_dir / "model", tmp_path / name / "model")
        (copy / name).write_text(content)
        assert sentence in said(copy)

    def unreachable(_: str) -> None:
        raise ConnectionError

    monkeypatch.setattr("ctwa.models.source.ask_hub", unreachable)
    assert "the hub does not answer" in said("nobody/nothing")


def test_without_a_validation_file_a_share_of_the_prompts_is_kept_back(prefer: Compose) -> None:
    config = prefer(*(f"ctwa.objectives.{name}.validation=null" for name in ("accuracy", "conciseness")))
    data, _, _ = prepare_data(config, check_preference_config(config))
    assert len(data.train) == len(data.validation) == 1
    train, validation = ({pair.prompt for pair in part[0].pairs} for part in (data.train, data.validation))
    assert len(train) + len(validation) == 40
    assert not train & validation


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["ctwa.caid.thresholds={humour:1}"], "humour"),
        (["ctwa.caid.thresholds={accuracy:0.1,conciseness:0.1,clarity:0.1}"], "leave one out"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.pairs_per_prompt=200"], "make 120 pairs"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.policies={safety:/nowhere/policy}"], "/nowhere/policy"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.caid.beta=0"], "beta"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "actor_rollout_ref.rollout.val_kwargs.do_sample=false"], "the same"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "actor_rollout_ref.rollout.val_kwargs.temperature=0"], "the same"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.policies={reward:org/policy}"], "another name"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "method=pama"], "method=pama: ctwa caid is a method itself"),
        (
            ["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.gradients.passes=sequential"],
            "gradients.passes: ctwa caid meas",
        ),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.caid.eta=1", "ctwa.caid.damping=1"], "damping=1.0 does .* eta"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.implicit_scale=published-code"], "no ctwa.policies"),
        (
            ["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.objectives.accuracy.transform=rank"],
            r"accuracy\.transform=rank: ctwa\.caid\.thresholds hold the mean of 'accuracy' .* both are \.5: write sig",
        ),
        ([], "caid.thresholds"),
        (
            ["ctwa.caid.thresholds={accuracy:0.1}", "actor_rollout_ref.rollout.multi_turn.enable=true"],
            "all of whose tokens are the policy's; write false",
        ),
    ],
)
def test_a_mistake_of_caid_is_named(caid: Compose, overrides: list[str], told: str) -> None:
    with pytest.raises(CtwaError, match=told):
        read_caid_settings(caid(*overrides))


def test_a_policy_may_be_a_run(prefer: Compose, caid: Compose, tmp_path: Path) -> None:
    """The run's newest complete checkpoint; nothing is started for a run that has none."""
    run = tmp_path / "aligned"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(CtwaError, match=r"ctwa.policies.safety: the run .*aligned has no complete checkpoint"):
        read_caid_settings(caid("ctwa.caid.thresholds={accuracy:0.1}", f"ctwa.policies={{safety:{run}}}"))
    for step in (8, 64):
        actor = run / "checkpoints" / f"global_step_{step}" / "actor"
        build_model(seed=5).save_pretrained(actor / "huggingface")
        seal(actor.parent)
    newest = str(run / "checkpoints/global_step_64/actor/huggingface")

    settings = read_caid_settings(caid("ctwa.caid.thresholds={accuracy:0.1}", f"ctwa.policies={{safety:{run}}}"))
    assert settings.policies == {"safety": newest}
    modpo = f"ctwa.modpo={{objective: accuracy, policies: {{conciseness: {run}}}}}"
    preference = check_preference_config(prefer("method=linear", modpo))
    assert preference.modpo is not None
    assert preference.modpo.policies == {"conciseness": newest}


def test_the_reward_is_made_of_what_is_no_constraint(caid: Compose) -> None:
    settings = read_caid_settings(caid("ctwa.caid.thresholds={accuracy:0.1}"))
    assert settings.reward_weights == {"conciseness": 0.333, "clarity": 0.334}


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    samples = Samples(
        [(1, 2), (3,)],
        [[(4,), (5, 6), (7,)], [(8, 9), (10,), (11,)]],
        {"g h": torch.tensor([[0.1, 0.2, 0.3], [1, 2, 3]], dtype=torch.float64)},
    )
    samples.write(tmp_path / "samples.parquet")
    again = Samples.read(tmp_path / "samples.parquet")
    assert (again.prompts, again.responses) == (samples.prompts, samples.responses)
    assert torch.equal(again.scores_PS["g h"], samples.scores_PS["g h"])
    assert pq.read_table(tmp_path / "samples.parquet").num_rows == 6


def test_what_the_references_samples_come_of(caid: Compose) -> None:
    """Whatever of an objective changes its scores; a covariance target is nothing to them."""
    thresholds = "ctwa.caid.thresholds={accuracy:0.1}"
    plain, targeted, scaled = (
        origin_of(config, read_caid_settings(config))
        for config in (
            caid(thresholds),
            caid(thresholds, "ctwa.objectives.accuracy.target=0.2"),
            caid(thresholds, "+ctwa.objectives.accuracy.scale=2.0"),
        )
    )
    assert plain == targeted
    assert plain != scaled


def test_a_run_that_broke_off_before_its_first_checkpoint_knows_the_references_length(
    caid: Compose, tmp_path: Path
) -> None:
    config = caid("ctwa.caid.thresholds={accuracy:0.1}", "ctwa.reference_length={type:fixed}")
    settings = read_caid_settings(config)
    samples = Samples([(1, 2)], [[(4,), (5, 6, 7)]], {"accuracy": torch.zeros(1, 2, dtype=torch.float64)})
    samples.write(tmp_path / REFERENCE_FILE, origin_of(config, settings))
    session, evaluator, recorder = (
        cast("Any", SimpleNamespace(**has)) for has in ({"end_tokens": set}, {}, {"run": RunFolder(tmp_path)})
    )
    sampler = Sampler(session, settings, evaluator, max_missing=0.0)
    PolicySampler(config, settings, sampler, recorder).reference()
    assert sampler.reference_length is not None
    assert sampler.reference_length.reference([9], [0]) == [2.0]


@pytest.mark.parametrize(
    ("num_bytes", "free", "device"),
    [
        (14, [], "cpu"),
        (14, [10, 70, 30], "cuda:1"),  # the first is a rank's
        (14, [28], "cuda:0"),
        (14, [27, 20], "cpu"),
        (14, [0, 0], "cpu"),
    ],
)
def test_a_margin_policy_goes_where_there_is_room(num_bytes: int, free: list[int], device: str) -> None:
    assert choose_device(num_bytes, free) == device


def test_what_engine_gpu_says_of_rollouts_is_nothing_to_preferences(prefer: Compose) -> None:
    assert check_preference_config(prefer("engine=gpu")).stop_within == 600


def test_modpo_is_dpo_with_another_beta_and_another_reference(prefer: Compose, task_dir: Path, tmp_path: Path) -> None:
    """Through the reference's file and the margin policy's, against MODPO's own formula."""
    policy = tmp_path / "policy"
    build_model(seed=5).save_pretrained(policy)
    build_tokenizer().save_pretrained(policy)
    config = prefer(
        "method=linear",
        "ctwa.objectives.accuracy.weight=0.8",
        "ctwa.objectives.conciseness.weight=0.2",
        f"ctwa.modpo={{objective: accuracy, policies: {{conciseness: {policy}}}}}",
        f"ctwa.reference_cache={tmp_path / 'cache'}",
    )
    settings = check_preference_config(config)
    data, tokenizer, _ = prepare_data(config, settings)
    (part,) = data.train
    generator = torch.Generator().manual_seed(0)
    reference_2P, policy_2P = (-30 * torch.rand(2, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    data.add_reference(
        settings,
        str(task_dir / "model"),
        tokenizer,
        lambda pairs: tuple(reference_2P[:, : len(pairs)]),  # type: ignore[arg-type, return-value]
    )
    data.add_margins(settings, tokenizer)
    margin_2P = torch.stack(response_log_probs(load_policy(str(policy)), part.tokens))
    assert part.reference_P2 is not None

    zeros = torch.zeros(40, dtype=torch.int64)
    labels_PM = torch.tensor([[pair.labels["accuracy"]] for pair in part.pairs])
    ours = objective_losses(
        settings.training_loss, PairLogProbs(*policy_2P, zeros, zeros, *part.reference_P2.unbind(1)), labels_PM
    )[:, 0]

    def difference(log_probs_2P: torch.Tensor) -> torch.Tensor:
        return labels_PM[:, 0] * (log_probs_2P[0] - log_probs_2P[1])

    margin_P = 0.1 * (difference(policy_2P) - difference(reference_2P))
    others = {"conciseness": 0.1 * (difference(margin_2P) - difference(reference_2P))}
    assert settings.modpo is not None
    torch.testing.assert_close(ours, Modpo(settings.modpo, settings.weights).losses(margin_P, others))
    assert settings.trained == ("accuracy",)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["ctwa.modpo={objective: humour, policies: {}}"], "humour"),
        (["ctwa.modpo={objective: accuracy, policies: {}}"], "conciseness"),
        (["ctwa.modpo={objective: accuracy, policies: {conciseness: /nowhere/policy}}"], "/nowhere/policy"),
        (["ctwa.modpo={objective: accuracy, policies: {conciseness: a/b}}", "loss=simpo"], "loss=dpo method=linear"),
    ],
)
def test_a_mistake_of_modpo_is_named(prefer: Compose, overrides: list[str], told: str) -> None:
    with pytest.raises(CtwaError, match=told):
        check_preference_config(prefer("method=linear", *overrides))
