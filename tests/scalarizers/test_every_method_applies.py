"""What every registered method does with objectives that apply to some completions alone."""

import torch
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout
from tests.scalarizers.every_method import (
    EIGHT,
    assert_sound,
    build,
    columns_of,
    drive,
    drive_steps,
    every_method_and_estimator,
)

TASKS_N = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]).repeat_interleave(4)
"""Eight prompts of three tasks."""
DISJOINT_NM = TASKS_N[:, None] == torch.arange(3)
LIKE_ALONE = (
    "compromise",
    "ctwa",
    "guard",
    "hypervolume",
    "linear",
    "pama",
    "probe",
    "product",
    "schedule",
    "smooth_tchebycheff",
    "tchebycheff",
)
"""At the first step, where each completion has one objective, a batch is to them what its tasks are alone."""


def applied(batch, applicable_NM: Tensor):
    """The same batch, with objectives that apply to some completions alone."""
    rewards = batch.rollout.rewards
    matrix = RewardMatrix(rewards.names, rewards.rewards_NM, rewards.scored_NM & applicable_NM, applicable_NM)
    return type(batch)(Rollout(matrix, batch.rollout.group_N, batch.rollout.mask_NT), batch.log_ratio_NT)


@every_method_and_estimator
def test_three_tasks_with_objectives_of_their_own(make_batch, method, scale_invariant):
    names = EIGHT[:3]
    kind = {"scale_invariant": scale_invariant}
    batch = applied(make_batch(names), DISJOINT_NM)
    scalarizer = build(method, names, **kind)

    each_MNT = scalarizer.objective_advantages(batch.rollout, batch.estimate(**kind))
    first_NT = scalarizer.advantages(batch.rollout, batch.estimate(**kind))

    for m, name in enumerate(names):
        alone = batch.with_rows(DISJOINT_NM[:, m].nonzero()[:, 0])
        rewards_N = columns_of(alone)[name]
        own_NT = alone.estimate(**kind)(rewards_N)
        torch.testing.assert_close(each_MNT[m][DISJOINT_NM[:, m]], own_NT, rtol=0, atol=1e-12)
        assert not each_MNT[m][~DISJOINT_NM[:, m]].any()
        if method in LIKE_ALONE:
            scores_N = rewards_N if method in {"guard", "pama", "product"} else scalarizer.weights[name] * rewards_N
            own_NT = alone.estimate(**kind)(scores_N)
            own_NT = own_NT.clamp(min=0) if method == "pama" else own_NT
            torch.testing.assert_close(first_NT[DISJOINT_NM[:, m]], own_NT, rtol=0, atol=1e-4)

    for driven in drive_steps(scalarizer, [applied(make_batch(names, seed=s), DISJOINT_NM) for s in range(4)], **kind):
        assert_sound(driven)
        assert driven.advantages_NT.any()


@every_method_and_estimator
def test_a_batch_without_an_objective_leaves_what_is_known_of_it(make_batch, method, scale_invariant):
    """But for counts of such batches, and for weights that are shares of one sum, as those of solutions are."""
    names, kind = EIGHT[:3], {"scale_invariant": scale_invariant}
    scalarizer = build(method, names, **kind)
    drive_steps(scalarizer, [make_batch(names, seed=seed) for seed in range(3)], **kind)
    before = scalarizer.state_dict()
    without_NM = torch.tensor([True, False, True]).expand(32, 3)

    driven = drive(scalarizer, applied(make_batch(names, seed=3), without_NM), step=4, **kind)

    def kept(state: dict) -> dict:
        own = {}
        for key, value in state.items():
            if isinstance(value, dict) and "objectives" in value:  # a state within the state
                own |= kept(value)
            elif isinstance(value, dict) and names[1] in value and not key.startswith(("num_held", "last_weights")):
                own[key] = value[names[1]]
        return {} if state.get("method") == "dynamic" else own

    assert_sound(driven)
    assert driven.advantages_NT.any()
    assert kept(scalarizer.state_dict()) == kept(before)
    assert_sound(drive(scalarizer, make_batch(names, seed=4), step=5, **kind))


@every_method_and_estimator
def test_nothing_applies_at_all(make_batch, method, scale_invariant):
    names, kind = EIGHT[:3], {"scale_invariant": scale_invariant}
    scalarizer = build(method, names, **kind)
    nothing = applied(make_batch(names), torch.zeros(32, 3, dtype=torch.bool))
    empty, driven = drive_steps(scalarizer, [nothing, make_batch(names)], **kind)

    assert_sound(empty)
    assert_sound(driven)
    assert not empty.advantages_NT.any()
    assert driven.advantages_NT.any()


@every_method_and_estimator
def test_what_applies_to_no_completion_changes_nothing_for_the_others(make_batch, method, scale_invariant):
    """Completions that no objective applies to get no advantage, and give the others none."""
    names, kind = EIGHT[:3], {"scale_invariant": scale_invariant}
    applicable_NM = DISJOINT_NM & (TASKS_N != 2)[:, None]
    batch = applied(make_batch(names), applicable_NM)
    with_them = drive(build(method, names, **kind), batch, **kind).advantages_NT
    rows_N = (TASKS_N != 2).nonzero()[:, 0]
    without = drive(build(method, names, **kind), batch.with_rows(rows_N), **kind).advantages_NT

    assert not with_them[TASKS_N == 2].any()
    torch.testing.assert_close(with_them[rows_N], without, rtol=0, atol=1e-9)
