import pytest

from ctwa import metrics


@pytest.mark.parametrize(
    ("made", "taken_apart"),
    [
        (metrics.covariance("a"), ("covariance", "", "a")),
        (metrics.weight("a"), ("weight", "", "a")),
        (metrics.validation("a"), ("val", "", "a")),
        (metrics.objective("a", "scored_frac"), ("objective", "scored_frac", "a")),
        (metrics.objective_of_source("a", "openai/gsm8k"), ("objective_source", "openai/gsm8k", "a")),
        (metrics.validation_of_source("a", "math"), ("val_source", "math", "a")),
        (metrics.clip_bound("a"), ("clip", "bound", "a")),
        (metrics.gradient_norm("a"), ("gradient", "norm", "a")),
        (metrics.probe_gain("a"), ("probe", "gain", "a")),
        (metrics.ctwa("ema", "a"), ("ctwa", "ema", "a")),
        (metrics.FEASIBILITY, ("ctwa", "feasibility", "")),
        ("preference/a/loss", ("preference", "loss", "a")),
        ("lagrangian/multiplier/a/b", ("lagrangian", "multiplier", "a/b")),
    ],
)
def test_a_name_is_taken_apart_as_it_was_made(made, taken_apart):
    assert metrics.parse(made) == taken_apart


def test_objectives_are_those_of_the_rewards_or_else_of_the_validations():
    validated = ["val/response_length", "val/b", "val/a"]
    assert metrics.objectives_in(validated) == ["b", "a"]
    assert metrics.objectives_in([*validated, metrics.objective_mean("a"), metrics.objective("b", "std")]) == ["a"]


def test_what_is_of_no_known_family_is_a_methods_own():
    names = ["pama/zero_rows", "unheard_of/key/a", metrics.weight("a"), "critic/score/mean", "ctwa/ema/a"]
    assert metrics.of_methods(names, shown={"ctwa/ema/a"}) == ["pama/zero_rows", "unheard_of/key/a"]


def test_sources_are_found_and_are_no_objectives():
    names = [metrics.validation_of_source("a", "x/y"), metrics.validation_error_of_source("a", "z"), "val/a"]
    assert metrics.sources_in(names) == ["x/y", "z"]
    assert metrics.objectives_in(names) == ["a"]
    assert metrics.of_methods(names) == []
