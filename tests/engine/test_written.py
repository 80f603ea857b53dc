"""Settings in files: what they compose to, and what is said of those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from ctwa.engine.checks.bounds import leaves
from ctwa.engine.compose import compose_config
from ctwa.engine.job import set_environment
from ctwa.engine.written import Written
from ctwa.errors import CtwaError

TASK = """
task: custom
method: linear
clipping: off
ctwa:
  run: runs/mine
  objectives:
    correct: {reward_fn: ctwa.testbed.rewards:accuracy, target: 0.1}
    short: {reward_fn: ctwa.testbed.rewards:conciseness, target: 0.1, weight: 0.5}
data.train_files: train.jsonl
data:
  val_files: ${data.train_files}
actor_rollout_ref.model.path: model
actor_rollout_ref.actor.optim.lr: 1e-5
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """Compose with a file mine.yaml in the current directory."""
    monkeypatch.chdir(tmp_path)

    def compose(text: str, *more: str, command: str = "train") -> DictConfig:
        Path("mine.yaml").write_text(text)
        return compose_config(["mine.yaml", *more], command=command)

    return compose


def test_a_file_is_what_one_writes_on_the_command_line(mine: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = mine(TASK)
    same = compose_config(
        [
            *("task=custom", "method=linear", "clipping=off", "ctwa.run=runs/mine"),
            "+ctwa.objectives.correct={reward_fn:'ctwa.testbed.rewards:accuracy',target:0.1}",
            "+ctwa.objectives.short={reward_fn:'ctwa.testbed.rewards:conciseness',target:0.1,weight:0.5}",
            *("data.train_files=train.jsonl", "data.val_files=train.jsonl", "actor_rollout_ref.model.path=model"),
            "actor_rollout_ref.actor.optim.lr=1e-5",
        ]
    )

    assert config == same
    assert config.data.train_files == [str(tmp_path / "train.jsonl")]


def test_the_command_line_has_the_last_word_and_then_the_last_file(mine: Callable[..., DictConfig]) -> None:
    Path("more.yaml").write_text("trainer: {save_freq: 7, test_freq: 7}")
    config = mine(TASK + "trainer.save_freq: 5", "more.yaml", "trainer.test_freq=9")

    assert (config.trainer.save_freq, config.trainer.test_freq) == (7, 9)


def test_a_file_without_a_task_is_one_of_its_own(mine: Callable[..., DictConfig]) -> None:
    """Else the default task's objectives would be trained beside those of the file."""
    assert list(mine(TASK.replace("task: custom", "")).ctwa.objectives) == ["correct", "short"]


@pytest.mark.parametrize("method", ["method: ctwa\nctwa.method.eta: 0.3", "ctwa.method: {type: ctwa, eta: 0.3}"])
def test_the_options_of_a_file_s_method_are_not_another_s(mine: Callable[..., DictConfig], method: str) -> None:
    text = TASK.replace("method: linear", "") + method

    assert mine(text).ctwa.method.eta == 0.3
    assert mine(text, "method=mgda").ctwa.method == {"type": "mgda"}


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("ctwa.sed: 3", "", "mine.yaml: ctwa.sed is no key of the configuration; did you mean ctwa.seed?"),
        ("learning_rate: 1", "", "mine.yaml: learning_rate is no key of the configuration; did you mean actor_rollo"),
        ("trainer.save_freq: often", "", "mine.yaml: trainer.save_freq=often is not possible: write "),
        ("trainer.save_freq: 5", "trainer.save_freq=often", "trainer.save_freq=often is not possible: write "),
        ("trainer: null", "", "mine.yaml: trainer=null is not possible, for it is a section: write "),
        ("data.max_prompt_length: ${nix}", "", "mine.yaml: data.max_prompt_length=${nix} has no value: "),
        ("engine: gpux", "", "mine.yaml: engine=gpux is no choice: write one of cpu, gpu"),
        ("engine: 7", "", "mine.yaml: engine=7 is no choice; write the name of one"),
        (
            "engine: cpu,gpu",
            "",
            "mine.yaml: engine=cpu,gpu names several, which only method can, and on the command line",
        ),
        ("ctwa.method.type: mgda", "", "mine.yaml: method=linear, but ctwa.method.type=mgda: write one of the two"),
        ("method: ctwa", "", "mine.yaml, line 16, column 1: this is not YAML (found duplicate key method); mend it"),
        ("\t- x", "", "mine.yaml, line 16, column 1: this is not YAML (found character '\\t' that cannot start "),
        ("x: &x [*x]", "", "mine.yaml cannot be read: it is nested too deeply, or holds itself; mend it"),
        ("x: a${", "", "mine.yaml cannot be read as YAML (no viable alternative at input '${'); give a file of "),
        ("'': 6", "", "mine.yaml: '' is no key of the configuration; write a name"),
        ("5: 6", "", "mine.yaml: 5 is no key of the configuration; write a name"),
        ("defaults: [custom]", "", "mine.yaml: defaults is no setting, for it is of Hydra's task files: write e.g. "),
        ("", "task=mine.yaml", "task=mine.yaml is no choice: write the file without task=, as mine.yaml"),
        ("", "min.yaml", "min.yaml does not exist; give a YAML file of settings; did you mean mine.yaml?"),
        ("", "ctwa.method.type=mgda", "ctwa.method.type=mgda would leave the options of another method: write method="),
    ],
)
def test_a_mistake_is_told_with_its_file_and_its_key(
    mine: Callable[..., DictConfig], text: str, more: str, sentence: str
) -> None:
    with pytest.raises(CtwaError) as error:
        mine(f"{TASK}\n{text}", *filter(None, [more]))

    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("number", "read"), [("010", 8), ("1:30", 90), ("-1:30:00", -5400), ("1:30.5", 90.5)])
def test_a_number_that_yaml_counts_otherwise(mine: Callable[..., DictConfig], number: str, read: float) -> None:
    for text in (f"trainer: {{total_training_steps: {number}}}", f"data.train_files: [a.jsonl, {number}]"):
        with pytest.raises(CtwaError, match=rf"^mine\.yaml, line 2: YAML reads {number} as {read}; write that number"):
            mine(f"method: linear\n{text}\n")


def test_numbers_and_texts_as_everybody_reads_them(mine: Callable[..., DictConfig]) -> None:
    config = mine(TASK, "trainer.project_name='1:30'")
    assert config.trainer.project_name == "1:30"
    own = "trainer: {total_training_steps: 0, project_name: '010', experiment_name: 10:99}\n# 1:30\n"
    with pytest.raises(CtwaError, match=r"total_training_steps=0 is not possible: write a whole number"):
        mine(f"{TASK}{own}")


def test_a_file_that_holds_no_keys(mine: Callable[..., DictConfig]) -> None:
    with pytest.raises(CtwaError, match=r"^mine\.yaml holds a list; write keys with values"):
        mine("- a\n- b\n")
    for text, value in {"ctwa: hello": "hello", "ctwa: [1]": "[1]", "ctwa:": "null"}.items():
        with pytest.raises(CtwaError) as error:
            mine(text)
        assert str(error.value) == f"mine.yaml: ctwa={value} is not possible, for it is a section: write keys in it"


def test_it_says_which_gave_what(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: custom\ntrainer: {save_freq: 5, test_freq: 5}")
    lines = Written.read([str(file), "trainer.save_freq=9"], "train").lines()

    assert lines == [
        "settings:",
        f"  {file}  task=custom",
        f"  {'command line':<{len(str(file))}}  trainer.save_freq=9  (5 in {file})",
        f"  {file}  trainer.test_freq=5",
    ]
    assert Written.read(["trainer.save_freq=9"], "train").lines() == []


class TestAWholeConfiguration:
    """The config.yaml that a run leaves."""

    def save(self, config: DictConfig) -> None:
        set_environment(config)
        Path("config.yaml").write_text(yaml.safe_dump(OmegaConf.to_container(config, resolve=True), sort_keys=False))

    def differences(self, one: DictConfig, other: DictConfig) -> set[str]:
        for each in (one, other):
            set_environment(each)
        values = [dict(leaves(OmegaConf.to_container(each))) for each in (one, other)]
        return {key for key in {*values[0], *values[1]} if values[0].get(key, "-") != values[1].get(key, "-")}

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("train", ["method=mgda", "engine=gpu", "trainer.experiment_name=named"]),
            ("prefer", ["task=testbed", "method=clamp", "loss=ipo"]),
            ("caid", ["ctwa.caid.thresholds={accuracy:0.05}"]),
        ],
    )
    def test_it_runs_again_as_it_was_with_another_folder_and_seed(
        self, monkeypatch: pytest.MonkeyPatch, task_dir: Path, tmp_path: Path, command: str, arguments: list[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        arguments, other = [*arguments, f"ctwa.task_dir={task_dir}"], ["ctwa.run=runs/b", "ctwa.seed=9"]
        self.save(compose_config([*arguments, "ctwa.run=runs/a"], command=command))
        again = compose_config(["config.yaml", *other], command=command)

        assert self.differences(again, compose_config([*arguments, *other], command=command)) == set()

    def test_another_method_brings_its_own_options(
        self, monkeypatch: pytest.MonkeyPatch, task_dir: Path, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        arguments = [f"ctwa.task_dir={task_dir}", "ctwa.run=runs/a"]
        self.save(compose_config([*arguments, "method=ctwa"]))

        config = compose_config(["config.yaml", "method=mgda"])
        same = compose_config([*arguments, "method=mgda"])
        assert {key.split(".")[-1] for key in self.differences(config, same)} == {"experiment_name"}
        for more, sentence in {
            "task=math500": "task cannot be chosen beside config.yaml, a whole configuration in which it is chosen",
            "ctwa.sed=3": "ctwa.sed is no key of the configuration; did you mean ctwa.seed?",
        }.items():
            with pytest.raises(CtwaError) as error:
                compose_config(["config.yaml", more])
            assert str(error.value).startswith(sentence)
