import pytest
import yaml

from ctwa.errors import CtwaError
from ctwa.run import RunFolder
from ctwa.run.trace import TraceWriter
from tests.run.runs import info


def test_a_new_run_has_its_config_and_what_runs(tmp_path):
    config = {"method": {"type": "ctwa", "eta": 0.05}, "objectives": {"a: b": {"weight": 1.0}}}
    run = RunFolder.create(tmp_path / "runs" / "one", config, info(seed=3))
    assert yaml.safe_load(run.config.read_text()) == config
    assert RunFolder(run.path).read_info() == info(seed=3)
    assert run.checkpoints.is_dir()
    assert run.tensorboard.is_dir()


def test_a_folder_with_a_run_is_refused_with_what_to_write(tmp_path):
    RunFolder.create(tmp_path, {}, info())
    with pytest.raises(CtwaError, match=r"already holds a run: write --resume to continue it, or give another folder"):
        RunFolder.create(tmp_path, {}, info(), how_to_resume="--resume")


def test_a_run_that_goes_on_cannot_be_resumed_beside_itself(tmp_path):
    """Two processes would write one trace, and prune each other's checkpoints."""
    run = RunFolder.create(tmp_path, {}, info())
    with TraceWriter(run.metrics), pytest.raises(CtwaError, match="goes on: it can be resumed when"):
        RunFolder.create(tmp_path, {}, info(), resume=True)
    RunFolder.create(tmp_path, {}, info(), resume=True)


@pytest.mark.parametrize("left", ["config.yaml", "run.json", "metrics.jsonl", "checkpoints/global_step_2"])
def test_whatever_a_run_left_makes_it_one(tmp_path, left):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(CtwaError, match="already holds a run"):
        RunFolder.create(tmp_path, {}, info())


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "engine.log").touch()  # of a start that failed
    RunFolder.create(tmp_path, {}, info())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(CtwaError, match="is a file"):
        RunFolder.create(tmp_path / "run", {}, info())


def test_resuming_keeps_each_earlier_config_and_the_day_of_the_beginning(tmp_path):
    RunFolder.create(tmp_path, {"lr": 1}, info(created=10.0))
    RunFolder.create(tmp_path, {"lr": 1}, info(created=20.0), resume=True)
    assert not (tmp_path / "config.1.yaml").exists()
    RunFolder.create(tmp_path, {"lr": 2}, info(created=30.0), resume=True)
    run = RunFolder.create(tmp_path, {"lr": 3}, info(created=40.0, num_steps=9), resume=True)
    found = [yaml.safe_load((tmp_path / name).read_text())["lr"] for name in ("config.1.yaml", "config.2.yaml")]
    assert found == [1, 2]
    assert yaml.safe_load(run.config.read_text()) == {"lr": 3}
    assert run.read_info().created == 10.0
    assert run.read_info().num_steps == 9


def test_resuming_in_an_empty_folder_starts_a_run(tmp_path):
    assert RunFolder.create(tmp_path / "new", {}, info(), resume=True).config.exists()


def test_opening_wants_a_run_that_has_begun(tmp_path):
    with pytest.raises(CtwaError, match="holds no run"):
        RunFolder.open(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    assert RunFolder.open(tmp_path).path == tmp_path


def test_a_missing_run_json_is_named(tmp_path):
    with pytest.raises(CtwaError, match=r"run.json does not exist"):
        RunFolder(tmp_path).read_info()


@pytest.mark.parametrize("where", ["file/run", "run"])
def test_a_folder_that_cannot_be_written_is_one_sentence_and_no_run(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")  # where a folder belongs
    sentence = r"/run cannot be written(, for .*/file is a file: give another place| \(.+\): give another one, or mend)"
    with pytest.raises(CtwaError, match=sentence):
        RunFolder.create(tmp_path / where, {}, info())


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_folder_that_fills_up_at_the_start_holds_no_run_then(tmp_path, name):
    path = tmp_path / "run"
    path.mkdir()
    (path / f"{name}.tmp").symlink_to("/dev/full")
    with pytest.raises(CtwaError, match=rf"the disk is full at .*: {name} cannot be written; make room"):
        RunFolder.create(path, {}, info())
    RunFolder.create(path, {}, info())
