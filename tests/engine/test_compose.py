"""What is said where words of the command line, choices and files of settings make no configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctwa.engine.compose import compose_config
from ctwa.engine.groups import CLASSES
from ctwa.errors import CtwaError
from tests.conftest import ROOT
from tests.engine.names import OPTIM

WRITTEN = [
    (["=1"], "'=1' names no key"),
    (["+=1"], "'\\+=1' names no key"),
    (["--learning-rate", "1e-5"], f"no option --learning-rate: .* did you mean {OPTIM}.lr\\?"),
    (["--lr=1e-5"], f"no option --lr: .* did you mean {OPTIM}.lr\\?"),
    (["-x"], "no option -x"),
    (["+ctwa.seed=1"], "ctwa.seed is there already: write ctwa.seed=1, without a plus"),
    (
        ["ctwa.objectives.polite.reward_fn=a.py:b"],
        r"did you mean ctwa.objectives.clarity.reward_fn\? \(a new one is written with a plus, \+ctwa.objectives.po",
    ),
    (["my.yaml"], "my.yaml does not exist; give a YAML file of settings"),
    (["data.train_batch_size"], "'data.train_batch_size' is no setting: settings are written KEY=VALUE"),
    (["data.train_files=["], r"the setting 'data.train_files=\[' cannot be read"),
    (["ctwa.run=runs/\udcff"], r"the setting 'ctwa.run=runs/.udcff' cannot be read"),
    (["data.train files=a"], "'data.train files=a': a key is names with dots between, and ' ' is in none"),
    (["method=mdga"], "method=mdga is no choice: write one of cagrad, .*; did you mean 'mgda'\\?"),
    (["method=null"], "method=null is no choice: write one of cagrad, "),
    (["method=5"], "method=5 is no choice: write one of cagrad, "),
    (["method={a:1}"], "method=.*'a': 1.* is no choice: write one of cagrad, "),
    (["method=[ctwa,linear]"], "method=.*'ctwa', 'linear'.* is no choice: write one of cagrad, "),
    (["method=CTWA"], "method=CTWA is no choice: .*; did you mean 'ctwa'\\?"),
    (["ctwa.run=~/mine"], "the setting 'ctwa.run=~/mine' cannot be read: put a value with .* or ~ in quotes"),
    (["~ctwa.run"], "^~ctwa.run deletes a key that is needed: write ctwa.run=VALUE, or leave it out$"),
    (["method=mgda,linear"], "method=mgda,linear gives several values"),
    (["task=testbet"], "task=testbet is no choice: write one of custom, .*testbed; did you mean 'testbed'\\?"),
    (["engine=tpu"], "engine=tpu is no choice: write one of cpu, gpu, one_gpu"),
    (["clipping=of"], "clipping=of is no choice: write one of cispo, dppo, geo_mean, gspo, off, on"),
    (["estimator=rloo"], "estimator=rloo is no choice: write one of grpo, reinforce"),
    (["generation=vlm"], "generation=vlm is no choice: .*; did you mean 'vllm'\\?"),
    (["metod=ctwa"], "metod is no key of the configuration; did you mean method\\?"),
    (["optim.lrr=1"], f"optim.lrr is no key of the configuration; did you mean {OPTIM}.lr\\?"),
    (["ctwa.method.etaa=1"], "ctwa.method.etaa is no key of the configuration; did you mean ctwa.method.eta\\?"),
    (["ctwa.objectives.acuracy.weight=1"], "did you mean ctwa.objectives.accuracy.weight\\?"),
    (["ctwa.objectives.acuracy.every=2"], "did you mean ctwa.objectives.accuracy.every\\?"),
    (["ctwa.objectives.accuracy.evry=2"], "ctwa.objectives.accuracy.evry is no key of the configuration"),
    (["~data.train_files"], "~data.train_files deletes a key that is needed"),
    (["~ctwa.stop_on"], "~ctwa.stop_on deletes a key that is needed"),
    (["~ctwa"], "~ctwa deletes a key that is needed"),
    (["~method"], "~method deletes a key that is needed"),
    (["ctwa.task_dir=null"], "^ctwa.task_dir is missing, and .*data.train_files.* give the folder$"),
    (["ctwa.run=???"], "give a value for ctwa.run"),
    (["trainer.nnodes=???"], "give a value for trainer.nnodes"),
    (["data.seed=${foo.bar}"], "data.seed=\\$.foo.bar. has no value: Interpolation key 'foo.bar' not found$"),
    (["data.train_files=${data.train_files}"], "^data.train_files=.* has no value: Recursive interpolation"),
    (["hydra.searchpath=[/nowhere/tasks]"], "hydra.searchpath: there is no folder /nowhere/tasks"),
    (["hydra.searchpath=5"], "hydra.searchpath=5 is not possible: write a list"),
    (["hydra.run.dir=x"], "hydra.run.dir does nothing here"),
    (["data=null"], "data=null is not possible, for it is a section"),
]


@pytest.mark.parametrize(("overrides", "sentence"), WRITTEN, ids=[" ".join(overrides) for overrides, _ in WRITTEN])
def test_what_cannot_be_composed_is_told_in_a_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence) as error:
        compose_config(["ctwa.run=run", "ctwa.task_dir=task", *overrides])

    assert len(str(error.value).splitlines()) == 1


def test_a_section_may_be_written_anew() -> None:
    config = compose_config(
        [
            *("ctwa.run=run", "ctwa.task_dir=task", "method=linear"),
            *("~ctwa.objectives", "+ctwa.objectives={a:{reward_fn:'a.py:b'}}"),
        ]
    )

    assert list(config.ctwa.objectives) == ["a"]


def test_the_choices_are_those_of_the_command() -> None:
    for method, meant in {"rac": "raco", "clam": "clamp"}.items():
        with pytest.raises(CtwaError) as error:
            compose_config([f"method={method}"], command="prefer")
        choices = ", ".join(sorted(CLASSES["prefer"]["method"]))
        assert str(error.value) == f"method={method} is no choice: write one of {choices}; did you mean {meant!r}?"


def test_several_mistakes_are_told_together() -> None:
    with pytest.raises(CtwaError) as error:
        compose_config(["ctwa.run=run", "ctwa.task_dir=task", "data.train_batch_size=-8", f"{OPTIM}.lr=-1"])

    head, *lines = str(error.value).splitlines()
    assert head == "the configuration is not valid:"
    assert [line.split("=")[0].strip() for line in lines] == ["data.train_batch_size", f"{OPTIM}.lr"]


def test_a_key_of_a_task_file_of_the_users_own_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    own = (ROOT / "ctwa/config/task/testbed.yaml").read_text().replace("      lr: ", "      learning_rate: ")
    (tmp_path / "task" / "mine.yaml").write_text(own)

    with pytest.raises(CtwaError, match=rf"optim\.learning_rate is no key .*; did you mean {OPTIM}\.lr\?$"):
        compose_config(["ctwa.run=run", "ctwa.task_dir=task", f"hydra.searchpath=[{tmp_path}]", "task=mine"])
