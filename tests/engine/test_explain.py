"""What `ctwa config` says of a key."""

from __future__ import annotations

import pytest

from ctwa.engine.explain import entries_of, explain, overview
from ctwa.engine.groups import SETTINGS
from ctwa.engine.verl_comments import comments_of, verl_comments
from ctwa.errors import CtwaError

ALWAYS = pytest.mark.parametrize("command", list(SETTINGS))


@ALWAYS
def test_every_key_of_ours_has_a_meaning(command: str) -> None:
    entries = entries_of(command)
    ours = [each for each in entries if each.key.startswith("ctwa.")]

    assert len(ours) > 50
    assert [f"{each.key} ({each.of})" for each in ours if not each.meaning] == []


@ALWAYS
def test_the_overview_has_the_groups_and_the_keys_of_the_command(command: str) -> None:
    text = overview(command)

    assert f"groups of ctwa {command}, each with its default:\n" in text
    assert "  ctwa.run = required" in text
    assert ("  method=raco" in text, "  ctwa.caid " in text) == (command == "prefer", command == "caid")
    assert "sections of verl: actor_rollout_ref, algorithm, " in text


def test_a_key_of_verl_has_its_meaning_its_bound_and_what_sets_it() -> None:
    lines = explain("actor_rollout_ref.actor.ppo_mini_batch_size", "train").splitlines()

    assert [" ".join(line.split()) for line in lines if "instructions" not in line] == [
        "actor_rollout_ref.actor.ppo_mini_batch_size",
        "Prompts an optimizer step; train_batch_size is a multiple of it.",
        "may be a whole number from 1 to 1000000",
        "value verl 256",
        "task=custom ${data.train_batch_size}",
        *("task=math500 32", "task=testbed 8"),
        "of ctwa train, ctwa prefer, ctwa caid",
    ]


@pytest.mark.parametrize(
    "word", ["lr", "optim.lr", "+actor_rollout_ref.actor.optim.lr=3", "learning_rate", "learning rate"]
)
def test_the_end_of_a_key_or_another_s_word_for_it_is_enough(word: str) -> None:
    text = explain(word, "train")

    assert "actor_rollout_ref.actor.optim.lr\n  Learning rate\n" in text
    assert text.startswith("learning_rate is actor_rollout_ref.actor.optim.lr here\n") == word.startswith("learning")


def test_a_comment_is_of_the_key_below_it_alone() -> None:
    assert "data.train_batch_size\n  Prompts a step.\n" in explain("batch size", "train")


def test_an_option_is_told_for_each_method_that_has_it() -> None:
    text = explain("ctwa.method.eta", "train")

    assert "ctwa.method.eta  (method=ctwa)\n  the step size of the log-weights; 0 is linear weighting.\n" in text
    assert "ctwa.method.eta  (method=lagrangian)\n" in text


def test_any_name_of_an_objective_will_do() -> None:
    assert explain("ctwa.objectives.helpful.weight", "train").startswith("ctwa.objectives.NAME.weight\n  its weight at")


def test_a_section_lists_its_keys() -> None:
    text = explain("ctwa.rewards", "train")

    assert "keys in it:\n  ctwa.rewards.num_workers = auto   processes that run them on each of Ray's nodes\n" in text
    assert "  trainer.logger = ['tensorboard']  " in explain("trainer", "train")


def test_a_group_lists_its_choices() -> None:
    assert "\n  cpu      This machine without a GPU\n" in explain("engine", "train")
    assert "\n  mgda " in explain("method", "train")
    assert "\n  dpo    -log sigma(margin), direct preference" in explain("loss", "prefer")


def test_a_key_that_nothing_reads() -> None:
    assert "nothing reads this key of verl in a run of ctwa: write " in explain("grad_clip", "train")


def test_a_word_in_the_names_of_keys_finds_them() -> None:
    told = explain("kl", "train")

    assert told.startswith("no key is called kl; these have it in their names:\n")
    assert "  actor_rollout_ref.actor.kl_loss_coef = 0.001 " in told
    assert "critic." not in told


@pytest.mark.parametrize("word", ["rank", "lora", "actor_rollout_ref.model.lora"])
def test_what_does_nothing_points_to_what_is_named_like_it(word: str) -> None:
    """verl has a section `lora` for Megatron's engine, and the keys of ours beside it."""
    told, _, named = explain(word, "train").partition("keys that are named after it:")

    assert "lora.rank = 0" not in told
    assert ("  actor_rollout_ref.model.lora_rank = 0 " in named) == (word != "actor_rollout_ref.model.lora")


@pytest.mark.parametrize(
    ("word", "command", "near"),
    [
        ("ctwa.metod", "train", "ctwa.metod is no key of ctwa train; near are ctwa.method"),
        ("total_trainig_steps", "train", "near are trainer.total_training_steps"),
        ("zzz", "train", "zzz is no key of ctwa train; ctwa config lists the sections there are"),
    ],
)
def test_a_key_that_is_none(word: str, command: str, near: str) -> None:
    with pytest.raises(CtwaError) as error:
        explain(word, command)

    assert near in str(error.value)


def test_comments_are_those_right_above_a_key() -> None:
    text = "# of the file\n\n# of a,\n# in two lines\na: 1\nb:\n  # oc.select: a default\n  # of c\n  c: 2\n  d: 3\n"

    assert dict(comments_of(text, "x.")) == {"x.a": "of a, in two lines", "x.b.c": "of c"}


def test_verl_s_comments_are_found_through_its_defaults() -> None:
    comments = verl_comments()

    assert comments["actor_rollout_ref.actor.optim.lr"] == "Learning rate"
    assert "data.train_files" in comments
    assert len(comments) > 200


def test_a_section_of_named_ones_lists_what_each_has() -> None:
    assert "keys in it:\n  ctwa.objectives.NAME.reward_fn = required" in explain("ctwa.objectives", "train")
