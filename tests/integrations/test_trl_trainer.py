"""Trainings with TRL: a tiny model on the CPU, from the rewards to the report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("trl", reason="TRL is not here: scripts/test.sh runs these with a folder of its own on the path")

from accelerate.launchers import debug_launcher
from accelerate.state import AcceleratorState
from trl import GRPOTrainer

from ctwa.batch import RewardMatrix, Rollout, Update
from ctwa.errors import CtwaError
from ctwa.integrations.trl import MultiObjectiveGRPOTrainer
from ctwa.integrations.trl.estimate import TrlEstimate
from ctwa.policy_loss import Vanilla
from ctwa.report.compare import compare_groups, comparison_text
from ctwa.report.groups import group_runs
from ctwa.report.html import write_report
from ctwa.report.summary import summarize
from ctwa.report.trace import read_runs
from ctwa.report.watch.state import WatchedRun
from ctwa.run import ObjectiveInfo, RunFolder, read_trace
from ctwa.run.jsonl import read_jsonl
from ctwa.scalarizers.ctwa import CtwaConfig
from ctwa.scalarizers.registry import METHODS, build_scalarizer
from tests.integrations import tiny_trl
from tests.integrations.tiny_trl import Recording, digits, early, log_probs, sometimes, together

TARGETS = {"digits": 0.2, "early": 0.1}
CTWA = {"type": "ctwa", "eta": 1.0}


def same_weights(one: Any, other: Any) -> bool:
    """Whether two trainers have the same model, to the last bit."""
    parameters = (each.model.state_dict().values() for each in (one, other))
    return all(torch.equal(*pair) for pair in zip(*parameters, strict=True))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of every record, without those of the clock."""
    return [
        {key: value for key, value in record["metrics"].items() if not key.startswith("time/")}
        for record in read_trace(folder / "metrics.jsonl")
    ]


@pytest.mark.parametrize(
    "changed",
    [{}, {"num_iterations": 2, "scale_rewards": "batch"}, {"steps_per_generation": 4, "scale_rewards": "none"}],
    ids=["on policy", "two epochs", "two steps a batch"],
)
def test_fixed_weights_are_trls_own_to_the_last_bit(changed: dict[str, Any], tmp_path: Path) -> None:
    of_trl = tiny_trl.trainer(GRPOTrainer, tmp_path / "trl", **changed)
    of_trl.train()
    ours = tiny_trl.trainer(MultiObjectiveGRPOTrainer, tmp_path / "ours", method="linear", **changed)
    ours.train()

    assert same_weights(ours, of_trl)
    assert not same_weights(ours, tiny_trl.trainer(GRPOTrainer, tmp_path / "not"))
    assert list(ours._logs["advantages"]) == pytest.approx(list(of_trl._logs["advantages"]), rel=1e-6)


def weights_by_hand(recorded: list[Any], statistic: str, steps: int) -> Iterator[dict[str, float]]:
    """The weights after each batch, of CTWA by itself on what the processes of a training recorded."""
    config = CtwaConfig.model_validate({**CTWA, "statistic": statistic})
    alone = build_scalarizer(config, {"digits": 0.7, "early": 0.3}, scale_invariant=True, targets=TARGETS)
    for number, batches in enumerate(zip(*(each.batches for each in recorded), strict=True)):
        made_by, *met = recorded[0].policies[number * steps : (number + 1) * steps + 1]
        seen = met[-1] if statistic == "post_update" else [made_by, *met][-2]
        rewards_NM = batches[0]["rewards_NM"]
        rewards = RewardMatrix(("digits", "early"), rewards_NM, torch.ones_like(rewards_NM, dtype=torch.bool))
        rollout = Rollout(
            rewards, torch.arange(len(rewards_NM)) // 4, together([each["completion_mask"] for each in batches])
        )
        advantages_NT = alone.advantages(rollout, TrlEstimate(rollout, "group"))
        trained_on_N = torch.cat([each["advantages"] for each in batches])
        torch.testing.assert_close(trained_on_N, advantages_NT[:, 0], rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            new_NT, old_NT = (together([log_probs(policy, each) for each in batches]) for policy in (seen, made_by))
        alone.observe_update(Update(rollout, advantages_NT, old_NT, new_NT, Vanilla(0.2, 0.2)))
        yield alone.weights


@pytest.mark.parametrize("statistic", ["post_update", "in_update"])
@pytest.mark.parametrize("steps", [1, 2], ids=["one step a batch", "two steps a batch"])
def test_the_weights_of_ctwa_are_those_of_its_own_code_on_the_same_batch(
    statistic: str, steps: int, tmp_path: Path
) -> None:
    method = {**CTWA, "statistic": statistic}
    changed = {"max_steps": 2 * steps, "num_iterations": steps}
    trainer = tiny_trl.trainer(Recording, tmp_path, method=method, targets=TARGETS, **changed)
    trainer.train()

    learnt = [each for each in metrics(tmp_path) if "weight/digits" in each]
    by_hand = [dict(each) for each in weights_by_hand([trainer], statistic, steps)]
    assert len(learnt) == len(by_hand) == 2
    for record, weights in zip(learnt, by_hand, strict=True):
        for name, weight in weights.items():
            assert record[f"weight/{name}"] == pytest.approx(weight, abs=1e-6)
    assert by_hand[-1]["digits"] > 1.05 * 0.7
    # Every step says how long it took, not the last one of a batch for all.
    records = read_trace(tmp_path / "metrics.jsonl")
    assert len(records) == 2 * steps == sum(each["metrics"]["time/step"] > 0 for each in records)


def _train_one_of_two(folder: Path) -> None:
    """What each of two processes does: a batch of three prompts, of which the second lies half in each process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    changed = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 1, "max_steps": 2}
    trainer = tiny_trl.trainer(Recording, folder / "run", method=CTWA, targets=TARGETS, **changed)
    trainer.train()
    policies = [policy.state_dict() for policy in trainer.policies]
    left = {"batches": trainer.batches, "policies": policies, "weights": trainer.scalarizer.weights}
    torch.save(left, folder / f"{trainer.accelerator.process_index}.pt")


def test_two_processes_make_one_batch(tmp_path: Path) -> None:
    debug_launcher(_train_one_of_two, (tmp_path,), num_processes=2)

    left = [torch.load(tmp_path / f"{process}.pt") for process in range(2)]
    policies = [tiny_trl.model() for _ in left[0]["policies"]]
    for policy, state in zip(policies, left[0]["policies"], strict=True):
        policy.load_state_dict(state)
    recorded = [SimpleNamespace(batches=each["batches"], policies=policies) for each in left]
    *_, by_hand = weights_by_hand(recorded, "post_update", 1)
    assert left[0]["weights"] == left[1]["weights"] == pytest.approx(by_hand, abs=1e-6)
    assert [len(batch["advantages"]) for each in recorded for batch in each.batches] == [6] * 4
    assert len(metrics(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    "method",
    [{"method": CTWA, "targets": TARGETS}, {"method": "common_descent", "gradients": {"gram": "cross_fitted"}}],
    ids=["weights of rewards", "weights of gradients"],
)
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(method: dict[str, Any], tmp_path: Path) -> None:
    def make(folder: str, **changed: Any) -> Any:
        given = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "lr_scheduler_type": "constant"}
        return tiny_trl.trainer(MultiObjectiveGRPOTrainer, tmp_path / folder, **given | method | changed)

    unbroken = make("unbroken")
    unbroken.train()
    make("broken", max_steps=3).train()
    (tmp_path / "broken" / "checkpoint-3").rename(tmp_path / "unsaved")  # as if the run had died after step 3
    resumed = make("broken")
    resumed.train(resume_from_checkpoint=True)

    assert resumed.scalarizer.state_dict() == unbroken.scalarizer.state_dict()
    assert same_weights(resumed, unbroken)
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "unbroken")
    assert len(metrics(tmp_path / "broken")) == 4
    with pytest.raises(CtwaError, match=r"already holds a run: write trainer\.train"):
        make("broken").train()
    state = tmp_path / "broken" / "checkpoint-4" / "ctwa_state.json"
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(CtwaError, match=r"ctwa_state\.json is not JSON .*: resume from another checkpoint"):
        make("broken").train(resume_from_checkpoint=True)
    state.unlink()
    with pytest.raises(CtwaError, match=r"checkpoint-4 has no ctwa_state\.json"):
        make("broken").train(resume_from_checkpoint=True)


def test_what_a_run_leaves_is_read_by_every_command(tmp_path: Path) -> None:
    for method, targets in {"linear": None, "ctwa": TARGETS}.items():
        trainer = tiny_trl.trainer(
            MultiObjectiveGRPOTrainer,
            tmp_path / method,
            method=method,
            targets=targets,
            eval_dataset={"near": tiny_trl.rows(32, 2), "far": tiny_trl.rows(64, 2)},
            eval_strategy="steps",
            eval_steps=2,
            eval_on_start=True,
            max_steps=4,
            per_device_eval_batch_size=4,
        )
        trainer.train()

    run = tmp_path / "ctwa"
    records = read_trace(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4]
    assert [each["step"] for each in records if "val/digits" in each["metrics"]] == [0, 2, 4]
    assert {"val_standard_error/early", "weight/digits"} <= records[0]["metrics"].keys()
    of_a_step = {"objective/early/mean", "covariance/early", "actor/grad_norm", "ctwa/deficit/early"}
    assert of_a_step <= records[1]["metrics"].keys()
    logged = [each["weight/digits"] for each in trainer.state.log_history if "weight/digits" in each]
    assert logged == [each["metrics"]["weight/digits"] for each in records[1:]]
    kept = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert kept[0]["prompt"].startswith("<bos> Compute")
    assert set(kept[0]["rewards"]) == {"digits", "early"}

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["ctwa"]["objectives"]["early"] == {"weight": 0.3, "target": 0.1}
    info = RunFolder.open(run).read_info()
    assert (info.method, info.objectives["early"]) == ("ctwa", ObjectiveInfo(weight=0.3, target=0.1))
    assert info.in_python
    watched = WatchedRun(run)
    watched.poll()
    assert watched.status().text == "finished at step 4 of 4"
    assert summarize(run).objectives["digits"].end == records[-1]["metrics"]["val/digits"]
    compared = compare_groups(group_runs(read_runs([tmp_path / "linear", run])))
    assert "ctwa" in comparison_text(compared)
    write_report([tmp_path / "linear", run], tmp_path / "report.html")
    assert "early" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("by nothing"), "failed after step 2: ZeroDivisionError: by nothing"),
        (KeyboardInterrupt(), "stopped by KeyboardInterrupt after step 2"),
    ],
)
def test_a_run_that_ends_too_early_says_where_and_how_to_go_on(error: BaseException, said: str, tmp_path: Path) -> None:
    def breaks(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == 2:
            raise error
        return [float(len(each)) for each in completions]

    trainer = tiny_trl.trainer(
        MultiObjectiveGRPOTrainer,
        tmp_path,
        method="linear",
        reward_funcs=[breaks, early],
        save_strategy="steps",
        save_steps=1,
    )
    with pytest.raises(type(error)):
        trainer.train()

    assert len(metrics(tmp_path)) == 2
    (event,) = read_jsonl(tmp_path / "events.jsonl")
    assert event["text"].startswith(f"{said}; the newest checkpoint is checkpoint-2: trainer.train(")


def test_every_other_method_trains(tmp_path: Path) -> None:
    needs: dict[str, dict[str, Any]] = {
        "lagrangian": {"objective": "digits", "targets": {"early": 0.5}},
        "cgpo": {"constraints": {"early": 0.5}},
        "torchjd": {"weighting": "MGDA"},
        "schedule": {"points": [{"step": 0, "weights": {"digits": 1.0, "early": 0.5}}]},
    }
    for name in sorted(METHODS.keys() - {"ctwa", "probe", "linear"}):
        trainer = tiny_trl.trainer(
            MultiObjectiveGRPOTrainer, tmp_path / name, method={"type": name, **needs.get(name, {})}, max_steps=2
        )
        trainer.train()
        last = metrics(tmp_path / name)[-1]
        assert all(math.isfinite(last[f"{key}/digits"]) for key in ("weight", "covariance")), name


def test_a_reward_that_does_not_apply_neither_gains_nor_loses(tmp_path: Path) -> None:
    trainer = tiny_trl.trainer(
        Recording, tmp_path, method="linear", reward_funcs=[sometimes], reward_weights=None, max_steps=1
    )
    trainer.train()

    (batch,), record = trainer.batches, metrics(tmp_path)[0]
    applies_N = trainer._rewards.applicable_NM[:, 0]
    assert 0 < record["objective/sometimes/applicable_frac"] == float(applies_N.double().mean()) < 1
    assert record["objective/sometimes/scored_frac"] == 1
    assert (batch["advantages"][~applies_N] == 0).all()
    assert (batch["advantages"][applies_N] != 0).any()


def test_completions_that_are_masked_for_their_length_have_one_and_raise_no_alarm(tmp_path: Path) -> None:
    trainer = tiny_trl.trainer(
        MultiObjectiveGRPOTrainer, tmp_path, max_completion_length=3, mask_truncated_completions=True, max_steps=1
    )
    trainer.train()

    (record,) = metrics(tmp_path)
    (logged, _) = trainer.state.log_history
    assert logged["completions/clipped_ratio"] == 1
    assert record["response_length/mean"] == logged["completions/mean_length"] == 3
    assert "actor/entropy" not in record
    assert not (tmp_path / "events.jsonl").read_text()


def test_weights_that_something_else_sets_are_refused(tmp_path: Path) -> None:
    def meddles(completions: list[str], **_: Any) -> list[float]:
        trainer.reward_weights = torch.tensor([0.0, 1.0])
        return [float(len(each)) for each in completions]

    trainer = tiny_trl.trainer(MultiObjectiveGRPOTrainer, tmp_path, reward_funcs=[meddles, early])
    with pytest.raises(CtwaError, match=r"reward_weights was set to \[0\.0, 1\.0\] .* method='schedule' has"):
        trainer.train()


def test_what_would_not_do_what_it_says_is_refused(tmp_path: Path) -> None:
    refused: list[tuple[str, dict[str, Any]]] = [
        ("no method 'ctaw'; did you mean 'ctwa'", {"method": "ctaw"}),
        ("clamp is no method for rewards", {"method": "clamp"}),
        ("method ctwa.eat is no key", {"method": {"type": "ctwa", "eat": 1}}),
        ("gradients.last_layers is for `ctwa train`", {"method": "upgrad", "gradients": {"last_layers": 1}}),
        ("gradients.refresh_every=2 does nothing with method 'linear'", {"gradients": {"refresh_every": 2}}),
        ("method.errors=2.0 does nothing", {"method": {"type": "common_descent", "errors": 2.0}}),
        (
            "num_generations=8 it has one",
            {"method": "upgrad", "gradients": {"gram": "cross_fitted"}, "num_generations": 8},
        ),
        ("fp16 scales the loss.*\n.*torch_compile frees", {"method": "mgda", "fp16": True, "torch_compile": True}),
        ("method 'probe' measures what each step did", {"method": "probe"}),
        (
            "wants a covariance target of every objective, and early has none:.*'early': 0.1",
            {"method": "ctwa", "targets": {"digits": 0.1}},
        ),
        ("target is no option of a method", {"method": {"type": "ctwa", "targets": TARGETS}}),
        ("'linear' steers by no covariance targets: leave targets out$", {"method": "linear", "targets": TARGETS}),
        (
            "its own are an option: method={'type': 'lagrangian', 'targets'",
            {"method": "lagrangian", "targets": TARGETS},
        ),
        ("method is of type NoneType; pass a name", {"method": None}),
        ("called '<lambda>'", {"method": "linear", "reward_funcs": [lambda **_: [], early]}),
        ("called 'early'", {"method": "linear", "reward_funcs": [early, early]}),
        ("'digits' has the weight -1", {"method": "linear", "reward_weights": [-1, 1]}),
        ("write method='gdpo'", {"method": "linear", "multi_objective_aggregation": "normalize_then_sum"}),
        ("eval_strategy is 'no'", {"method": {"type": "hypervolume", "scores": "validation"}}),
        ("divides by the tokens of each micro-batch", {"method": CTWA, "targets": TARGETS, "loss_type": "bnpo"}),
        ("steps_per_generation \\* num_iterations = 1 ", {"method": "linear", "steps_per_generation": 1}),
        (
            "write a multiple of 2",
            {"method": "linear", "num_iterations": 2, "save_strategy": "steps", "save_steps": 3},
        ),
    ]
    for message, given in refused:
        given = {"method": "linear", "reward_funcs": [digits, early]} | given
        with pytest.raises(CtwaError, match=message):
            tiny_trl.trainer(MultiObjectiveGRPOTrainer, tmp_path / "run", **given)
    assert not (tmp_path / "run" / "run.json").exists()
