"""A mistake in a call of `ctwa.methods` is one sentence, a `CtwaError`: what is wrong, and what to pass instead."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctwa.methods import (
    CtwaError,
    Dro,
    GroupRelative,
    LoopTrace,
    Progress,
    RewardMatrix,
    Rollout,
    Sapo,
    Update,
    Vanilla,
    backward_probe,
    build_aggregator,
    build_scalarizer,
    forward_probe,
    method_options,
)

WEIGHTS = {"right": 0.5, "short": 0.5}
TARGETS = {"right": 0.4, "short": 0.05}
REWARDS = RewardMatrix.from_columns({"right": [1, 0, 0.5, 1], "short": [0.1, 0.2, 0.3, 0.4]})
GROUP_N, MASK_NT, LOG_PROBS_NT = torch.tensor([0, 0, 1, 1]), torch.ones(4, 3), torch.full((4, 3), -1.0)
ROLLOUT = Rollout(REWARDS, GROUP_N, MASK_NT)
LINEAR, CTWA = method_options("linear"), method_options("ctwa")


def built(config: Any = LINEAR, weights: Any = WEIGHTS, scale_invariant: Any = True, **given: Any) -> Any:
    return build_scalarizer(config, weights, scale_invariant=scale_invariant, **given)


def ctwa(targets: Any = TARGETS) -> Any:
    return built(CTWA, targets=targets)


def update(**changed: Any) -> Update:
    parts = {
        "rollout": ROLLOUT,
        "advantages_NT": MASK_NT,
        "log_probs_old_NT": LOG_PROBS_NT,
        "log_probs_new_NT": LOG_PROBS_NT,
        "loss": Vanilla(),
    }
    return Update(**parts | changed)


def rollout(**changed: Any) -> Rollout:
    return Rollout(**{"rewards": REWARDS, "group_N": GROUP_N, "mask_NT": MASK_NT} | changed)


def solved(method: str = "upgrad", gram_MM: Any = None, **given: Any) -> Any:
    gram_MM = torch.eye(2) if gram_MM is None else gram_MM
    return build_aggregator(method_options(method), WEIGHTS).solve(gram_MM, **given)


def probed(probe: Callable[..., Progress] = backward_probe, **changed: Any) -> Progress:
    parts = {"names": REWARDS.names, "rewards_NM": REWARDS.rewards_NM, "scored_NM": REWARDS.scored_NM}
    parts |= {"mask_NT": MASK_NT, "group_N": GROUP_N, "log_probs_before_NT": LOG_PROBS_NT}
    parts["log_probs_now_NT" if probe is backward_probe else "log_probs_after_NT"] = LOG_PROBS_NT
    return probe(**parts | changed)


def loaded(**changed: Any) -> None:
    method = ctwa()
    state = method.state_dict() | changed
    method.load_state_dict({key: value for key, value in state.items() if value is not None})


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    # building a method
    "an option that is no number": (
        lambda: method_options("ctwa", eta="x"),
        "ctwa.eta: Input should be a valid number",
    ),
    "targets as an option": (lambda: method_options("ctwa", targets=TARGETS), "build_scalarizer(..., targets="),
    "a name that is a list": (lambda: method_options(["ctwa"]), "there is no method ['ctwa']"),
    "a name for options": (lambda: built("linear"), "config is of type str; pass method_options('NAME', ...)"),
    "options of an aggregator": (lambda: built(method_options("clamp")), "clamp is no method for rewards; build_agg"),
    "options of no aggregator": (
        lambda: build_aggregator(CTWA, WEIGHTS),
        "ctwa weighs no gradients; write a method of",
    ),
    "a name for an aggregator's": (lambda: build_aggregator("mgda", WEIGHTS), "pass method_options('NAME', ...)"),
    "a weight that is a text": (lambda: built(weights={"a": "0.5"}), "'a' has the weight 0.5; write a finite number"),
    "a weight that is missing": (lambda: built(weights={"a": None}), "'a' has the weight null; write a finite number"),
    "weights without names": (lambda: built(weights=[0.5, 0.5]), "the weights are [0.5, 0.5]; write one by name"),
    "an aggregator's weights": (lambda: build_aggregator(LINEAR, {"a": "x"}), "'a' has the weight x; write a finite"),
    "a name with a slash": (lambda: built(weights={"a/b": 1}), "objective name 'a/b' has a '/'"),
    "an aggregator's name": (lambda: build_aggregator(LINEAR, {"a/b": 1}), "objective name 'a/b' has a '/'"),
    "a name that is a number": (lambda: built(weights={3: 1.0}), "objective name 3 is of type int; write a text"),
    "targets that do nothing": (lambda: built(targets=TARGETS), "linear steers by no covariance targets: leave"),
    "targets of other names": (
        lambda: ctwa({"right": 1.0}),
        "short has none: write ctwa.objectives.short.target in a configuration, and in Python targets={'short': 0.1",
    ),
    "no targets": (
        lambda: ctwa(None),
        "ctwa wants a covariance target of every objective, and right, short have none: write ctwa.objectives.right",
    ),
    "targets without names": (lambda: ctwa([1, 2]), "targets is of type list; pass a number for each"),
    "a target that is NaN": (
        lambda: ctwa(TARGETS | {"right": float("nan")}),
        "target of 'right' is nan; write a finite",
    ),
    "a target that is a text": (lambda: ctwa(TARGETS | {"right": "x"}), "target of 'right' is x; write a finite"),
    "yes for true": (lambda: built(scale_invariant="yes"), "scale_invariant is of type str; pass True or False"),
    # rewards and rollouts
    "a reward that is a word": (lambda: RewardMatrix.from_columns({"a": [1, "x"]}), "'a' has the reward 'x' in row 1;"),
    "a number in a text": (lambda: RewardMatrix.from_columns({"a": ["1.0"]}), "the reward '1.0' in row 0; pass a num"),
    "a reward that is a list": (lambda: RewardMatrix.from_columns({"a": [[1]]}), "the reward '[1]' in row 0; pass a"),
    "a column that is a text": (
        lambda: RewardMatrix.from_columns({"a": "123"}),
        "the rewards of objective 'a' are 123;",
    ),
    "a column that is a number": (lambda: RewardMatrix.from_columns({"a": 3}), "the rewards of objective 'a' are 3;"),
    "a column without an order": (
        lambda: RewardMatrix.from_columns({"a": {0, 1}}),
        "the rewards of objective 'a' are {0, 1}; pass one a completion",
    ),
    "no columns": (lambda: RewardMatrix.from_columns({}), "columns has no objective; pass the rewards of each"),
    "columns without names": (
        lambda: RewardMatrix.from_columns([[1]]),
        "columns is of type list; pass the rewards by objective",
    ),
    "a column with a slash": (lambda: RewardMatrix.from_columns({"a/b": [1]}), "objective name 'a/b' has a '/'"),
    "rewards of a rollout": (lambda: rollout(rewards={"a": [1] * 4}), "rewards is of type dict; pass a RewardMatrix"),
    "too few groups": (lambda: rollout(group_N=GROUP_N[:3]), "group_N has the shape (3,); pass (N,) with N = 4"),
    "groups in a list": (
        lambda: rollout(group_N=[0, 0, 1, 1]),
        "group_N is of type list; pass a tensor (N,) with N = 4",
    ),
    "groups that are fractions": (lambda: rollout(group_N=GROUP_N / 2), "group_N is torch.float32; pass the prompt's"),
    "a mask without tokens": (lambda: rollout(mask_NT=torch.ones(4)), "mask_NT has the shape (4,); pass (N, T) with N"),
    "a mask with fractions": (lambda: rollout(mask_NT=MASK_NT / 2), "mask_NT has other values than 0 and 1; pass 1"),
    "a mask that is elsewhere": (lambda: rollout(mask_NT=MASK_NT.to("meta")), "mask_NT is on meta; pass it on the CPU"),
    "what is rejected": (lambda: rollout(rejected_NT=MASK_NT), "rejected_NT is torch.float32; pass bool"),
    "importance": (
        lambda: rollout(importance_NT=MASK_NT[:, :2]),
        "importance_NT has the shape (4, 2); pass (N, T) with",
    ),
    "weights of prompts": (
        lambda: rollout(weights={"a": torch.ones(3)}),
        "weights['a']_N has the shape (3,); pass (N,)",
    ),
    "no completions": (
        lambda: Rollout(RewardMatrix.from_columns({"a": []}), GROUP_N[:0], MASK_NT[:0]),
        "the rollout has no completion, of which nothing can be learned",
    ),
    "no tokens": (lambda: rollout(mask_NT=MASK_NT[:, :0]), "mask_NT has the shape (4, 0), and no token; pad"),
    "weights of prompts below 0": (
        lambda: rollout(weights={"a": torch.tensor([1.0, 1.0, -1.0, 1.0])}),
        "weights['a']_N has -1.0 in row 2; pass finite weights of 0 or more",
    ),
    "weights of prompts that are NaN": (
        lambda: rollout(weights={"a": torch.full((4,), torch.nan)}),
        "weights['a']_N has nan in row 0;",
    ),
    "weights of prompts that say nothing": (
        lambda: rollout(weights={"a": torch.zeros(4), "b": torch.tensor([1.0, 0.0, 1.0, 1.0])}),
        "the weights of row 1 are all 0; give at least one of its objectives a positive weight",
    ),
    # advantages
    "no estimator": (lambda: built().advantages(ROLLOUT, None), "the estimate is of type NoneType; pass a callable"),
    "an estimator that says too little": (
        lambda: ctwa().advantages(ROLLOUT, torch.zeros_like),
        "scale_invariant, such",
    ),
    "an epsilon below 0": (
        lambda: GroupRelative(ROLLOUT, epsilon=-1),
        "epsilon is -1; pass a finite number, 0 or more",
    ),
    "an estimator of rewards": (lambda: GroupRelative(REWARDS), "rollout is of type RewardMatrix; pass a Rollout"),
    "scores of others": (
        lambda: GroupRelative(ROLLOUT)(torch.ones(3)),
        "scores_N has the shape (3,); pass (N,) with N",
    ),
    "rows of others": (
        lambda: GroupRelative(ROLLOUT)(torch.ones(4), GROUP_N),
        "rows_N is torch.int64; pass bool",
    ),
    # updates
    "advantages of completions": (
        lambda: update(advantages_NT=torch.ones(4)),
        "advantages_NT has the shape (4,); pass",
    ),
    "log-probabilities that are missing": (
        lambda: update(log_probs_new_NT=None),
        "log_probs_new_NT is of type NoneType",
    ),
    "log-probabilities cut short": (lambda: update(log_probs_old_NT=MASK_NT[:, :2]), "with N = 4 and T = 3"),
    "a loss without brackets": (lambda: update(loss=Vanilla), "loss is the class Vanilla; pass a PolicyLoss such as"),
    "an update of rewards": (lambda: update(rollout=REWARDS), "rollout is of type RewardMatrix; pass a Rollout"),
    "a loss that says nothing": (lambda: ctwa().observe_update(update(loss=None)), "loss of this update is None: pass"),
    "a range below 0": (lambda: Vanilla(low=-1), "Vanilla has low=-1; pass a number, 0 or more"),
    "a range that is a text": (lambda: Vanilla(low="x"), "Vanilla has low=x; pass a number, 0 or more"),
    "a range that is missing": (lambda: Sapo(up=None), "Sapo has up=null; pass a number, 0 or more"),
    "a penalty that is NaN": (lambda: Dro(float("nan")), "Dro has beta=nan; pass a number, 0 or more"),
    # probes
    "gains of others": (
        lambda: Progress(("a",), torch.ones(2), torch.ones(1), 1),
        "gain_M has the shape (2,); pass (M,)",
    ),
    "a name too few": (lambda: probed(names=("a",)), "rewards_NM has the shape (4, 2); pass (N, M) with M = 1"),
    "probed groups": (lambda: probed(group_N=GROUP_N[:2]), "group_N has the shape (2,); pass (N,) with N = 4"),
    "probed rows": (lambda: probed(forward_probe, rows_N=GROUP_N), "rows_N is torch.int64; pass bool"),
    "scores of a probe": (lambda: probed(forward_probe, scored_NM=MASK_NT), "scored_NM has the shape (4, 3); pass (N,"),
    # gradients
    "a matrix of others": (
        lambda: solved(gram_MM=torch.eye(3)),
        "gram_MM has the shape (3, 3); pass (M, M) with M = 2",
    ),
    "a matrix of one": (lambda: solved("linear", torch.eye(1)), "gram_MM has the shape (1, 1); pass (M, M) with M = 2"),
    "a matrix that is a list": (
        lambda: solved(gram_MM=[[1, 0], [0, 1]]),
        "gram_MM is of type list; pass a tensor (M, M)",
    ),
    "a matrix that is complex": (lambda: solved(gram_MM=torch.eye(2) * 1j), "complex64; pass real numbers"),
    "losses that are missing": (lambda: solved("gradnorm"), "gradnorm needs the objectives' losses: pass losses_M"),
    "losses of others": (lambda: solved("gradnorm", losses_M=torch.ones(3)), "losses_M has the shape (3,); pass (M,)"),
    "errors of others": (lambda: solved("common_descent", errors_MM=torch.eye(3)), "errors_MM has the shape (3, 3)"),
    "no learning rate": (lambda: solved("dynamic"), "dynamic needs the learning rate of the step: pass it as"),
    "a learning rate that is NaN": (
        lambda: solved("dynamic", learning_rate=float("nan")),
        "dynamic needs the learning",
    ),
    # state
    "a state that is none": (lambda: ctwa().load_state_dict(None), "the state is null; give what state_dict gave"),
    "a state that is cut": (lambda: loaded(growth=None), "state has no growth: it is not whole; restore the file"),
    "a state of one": (lambda: loaded(growth={"right": 1.0}), "a number of each of ['right', 'short'] is wanted"),
    "a state of texts": (
        lambda: loaded(growth=dict.fromkeys(WEIGHTS, "x")),
        "a number of each of ['right', 'short'] is",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(mistake: str) -> None:
    call, message = MISTAKES[mistake]

    with pytest.raises(CtwaError, match=re.escape(message)) as told:
        call()
    assert "\n" not in str(told.value)


TRACES: dict[str, tuple[Callable[[Callable[..., LoopTrace]], Any], str]] = {
    "no method": (lambda trace: trace(method="linear"), "method is of type str; pass what build_scalarizer"),
    "no steps": (lambda trace: trace(num_steps=0), "num_steps is 0; pass a whole number, 1 or more"),
    "a fraction of a step": (lambda trace: trace(num_steps=1.5), "num_steps is 1.5; pass a whole number, 1 or more"),
    "a seed that is a text": (lambda trace: trace(seed="x"), "seed is x; pass a whole number, 0 or more"),
    "no model": (lambda trace: trace(model=None), "model is of type NoneType; pass its name as a text"),
    "settings in a list": (lambda trace: trace(config=[1]), "config is of type list; pass the loop's settings by name"),
    "settings that are no YAML": (lambda trace: trace(config={"x": MASK_NT}), "of the run cannot be written (('cannot"),
    "samples below 0": (lambda trace: trace(num_samples=-1), "num_samples is -1; pass a whole number, 0 or more"),
    "a step twice": (lambda trace: [at.step(1, None, {}) for at in [trace()] * 2], "step 1 comes after step 1, which"),
    "a step before": (lambda trace: trace().step(-1, None, {}), "step is -1; pass a whole number, 0 or more"),
    "half a step": (lambda trace: trace().step(0.5, None, {}), "step is 0.5; pass a whole number, 0 or more"),
    "a metric that is a text": (lambda trace: trace().step(1, None, {"x": "y"}), "metric 'x' is 'y'; pass a number"),
    "no metrics": (lambda trace: trace().step(1, None, None), "metrics is of type NoneType; pass numbers by name"),
    "a rollout for an update": (
        lambda trace: trace().step(1, ROLLOUT, {}),
        "update is of type Rollout; pass an Update",
    ),
    "an update of others": (lambda trace: trace().step(1, of_others(), {}), "no rewards of ['right', 'short'], which"),
    "a prompt too few": (
        lambda trace: trace().samples(1, ["p"], ["r"] * 4, REWARDS),
        "there are 1 prompts and the rew",
    ),
    "tokens for texts": (lambda trace: trace().samples(1, ["p"] * 4, [[1]] * 4, REWARDS), "responses are [[1], [1],"),
    "rewards in a dict": (
        lambda trace: trace().samples(1, ["p"], ["r"], {"a": [1]}),
        "rewards is of type dict; pass a",
    ),
    "a step after the end": (
        lambda trace: closed(trace()).step(1, None, {}),
        "the trace is closed: write steps and samples in",
    ),
    "samples after the end": (
        lambda trace: closed(trace()).samples(1, [], [], REWARDS),
        "the trace is closed: write steps and",
    ),
}


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Callable[..., LoopTrace]]:
    with ExitStack() as stack:

        def begun(**given: Any) -> LoopTrace:
            options = {"method": built(), "num_steps": 3} | given
            return stack.enter_context(LoopTrace(tmp_path / "run", **options))

        yield begun


def closed(trace: LoopTrace) -> LoopTrace:
    with trace:
        pass
    return trace


def of_others() -> Update:
    return update(rollout=rollout(rewards=RewardMatrix.from_columns({"other": [1, 0, 1, 1]})))


@pytest.mark.parametrize("mistake", TRACES)
def test_a_mistake_in_a_trace_is_told_in_one_sentence(mistake: str, trace: Callable[..., LoopTrace]) -> None:
    call, message = TRACES[mistake]

    with pytest.raises(CtwaError, match=re.escape(message)) as told:
        call(trace)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("out of memory"), "error", "failed after step 2: RuntimeError: out of memory; go on from your"),
        (KeyboardInterrupt(), "stop", "stopped by KeyboardInterrupt after step 2; go on from your checkpoint with"),
    ],
)
def test_the_trace_says_by_what_its_loop_ended(error: BaseException, kind: str, text: str, tmp_path: Path) -> None:
    def loop() -> None:
        with LoopTrace(tmp_path, built(), num_steps=9) as trace:
            trace.step(2, None, {})
            raise error

    with pytest.raises(type(error)):
        loop()
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["kind"], event["step"]) == (kind, 2)
    assert event["text"].startswith(text)


def test_the_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    one = np.int64(1)
    with LoopTrace(tmp_path, built(), num_steps=3 * one, seed=one, num_samples=one) as trace:
        trace.step(one, update(), {"val/right": np.float32(0.5)})
        trace.samples(one, ["p"] * 4, ["r"] * 4, REWARDS)
    with LoopTrace(tmp_path, built(), num_steps=3, resume_after=one) as trace:
        trace.step(2 * one, None, {})
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


def test_what_is_handed_over_keeps_no_graph() -> None:
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    rewards = RewardMatrix(REWARDS.names, one * REWARDS.rewards_NM, REWARDS.scored_NM)
    told = {"right": one * torch.ones(4)}
    of_batch = rollout(rewards=rewards, mask_NT=one * MASK_NT, importance_NT=one * MASK_NT, weights=told)
    of_update = update(rollout=of_batch, advantages_NT=one * MASK_NT, log_probs_new_NT=one * LOG_PROBS_NT)
    progress = probed(log_probs_before_NT=one * LOG_PROBS_NT)
    scores_N = one * torch.arange(4.0)

    for tensor in (
        *(rewards.rewards_NM, of_batch.mask_NT, of_batch.importance_NT, of_batch.weights["right"]),
        *(of_update.advantages_NT, of_update.log_probs_new_NT, progress.gain_M, progress.standard_error_M),
        GroupRelative(ROLLOUT)(scores_N),
    ):
        assert not tensor.requires_grad


def test_options_of_every_aggregator_are_had_by_name() -> None:
    assert build_aggregator(method_options("clamp"), WEIGHTS).method == "clamp"
