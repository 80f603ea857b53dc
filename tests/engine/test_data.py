"""The rows of a run: what of a user's file verl gets, what is kept, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoTokenizer

from ctwa import NOT_APPLICABLE
from ctwa.batch import RewardMatrix
from ctwa.engine.by_source import has_several_sources, training_by_source, validation_by_source
from ctwa.engine.checks.config import check_config
from ctwa.engine.compose import compose_config
from ctwa.engine.data import RunData, read_run_data
from ctwa.engine.recorder import Recorder
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion
from ctwa.run.folder import RunFolder, RunInfo

Changed = Callable[[dict[str, Any]], DictConfig]

SETTINGS = {
    "data.val_files": None,
    "data.validation_share": 0.25,
    "data.columns": {"prompt": "task", "ground_truth": "result", "data_source": None},
}


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., str]:
    def write(number: int = 40, name: str = "sums.jsonl", **columns: Any) -> str:
        rows = [
            {"task": f"Compute mod 10 : {n % 10} + {n // 10} ?", "result": str((n % 10 + n // 10) % 10), "level": n}
            for n in range(number)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row | columns) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


def handed_over(config: DictConfig) -> tuple[RunData, DictConfig, list[dict[str, Any]]]:
    """The data, the config for verl, and the events of a run that begins or goes on."""
    data = read_run_data(config)
    info = RunInfo(method="linear", objectives={}, num_steps=1)
    run = RunFolder.create(config.ctwa.run, {}, info, resume=True)
    before = run.events.read_text() if run.events.exists() else ""
    with closing(Recorder(run, resume=bool(before), num_samples=0, seed=0, stop_on=[])) as recorder:
        for_verl = data.hand_over(config, recorder)
    return data, for_verl, [json.loads(each) for each in run.events.read_text()[len(before) :].splitlines()]


def test_verl_gets_the_users_rows(changed: Changed, lines: Callable[..., str], task_dir: Path, tmp_path: Path) -> None:
    from verl.trainer.ppo.utils import create_rl_dataset

    config = changed(
        SETTINGS
        | {"data.train_files": [lines(index="a1")], "data.train_max_samples": 20, "ctwa.run": f"{tmp_path}/run"}
    )
    _, for_verl, events = handed_over(config)
    tokenizer = AutoTokenizer.from_pretrained(task_dir / "model")
    train, held_out = (
        create_rl_dataset(for_verl.data[key], for_verl.data, tokenizer, None, max_samples=limit)
        for key, limit in (("train_files", 20), ("val_files", -1))
    )

    assert (len(train), len(held_out)) == (20, 10)
    for data_set in (train, held_out):
        for row in (data_set[n] for n in range(len(data_set))):
            n = row["level"]
            assert row["raw_prompt"] == [{"role": "user", "content": f"Compute mod 10 : {n % 10} + {n // 10} ?"}]
            assert row["reward_model"] == {"ground_truth": str((n % 10 + n // 10) % 10)}
            assert (row["data_source"], row["extra_info"]["index"]) == ("sums", n)
            assert row["index"] == "a1"  # the user's column, over which verl would write
    assert not {train[n]["level"] for n in range(20)} & {held_out[n]["level"] for n in range(10)}
    assert config.data.train_files == [f"{tmp_path}/sums.jsonl"]
    assert config.data.custom_cls.path is None
    assert events == []


def test_the_samples_are_those_that_verl_draws(changed: Changed, lines: Callable[..., str], tmp_path: Path) -> None:
    """Of the same rows verl's own data set and ours take the same ones."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from ctwa.engine.verl.run_rows import RunRows

    config = changed(SETTINGS | {"data.train_files": [lines()], "ctwa.run": f"{tmp_path}/run"})
    _, for_verl, _ = handed_over(config)
    for_verl.data.filter_overlong_prompts = False
    levels = []
    for kind in (RLHFDataset, RunRows):
        rows = kind(for_verl.data.train_files, None, for_verl.data, max_samples=12)
        levels.append([rows[n]["level"] for n in range(len(rows))])
    assert levels[0] == levels[1]
    assert len(levels[0]) == 12


def test_rows_in_verls_format_are_verls_to_read(changed: Changed, tmp_path: Path) -> None:
    config = changed({"ctwa.run": f"{tmp_path}/run"})
    data, for_verl, _ = handed_over(config)

    assert for_verl.data == OmegaConf.merge(
        config.data, {"custom_cls": {"path": "pkg://ctwa.engine.verl.run_rows", "name": "OwnRows"}}
    )
    assert sorted(path.name for path in (tmp_path / "run" / "data").iterdir()) == ["sources.json"]
    assert data.train.num_rows == 300


def test_a_run_that_goes_on_has_the_same_rows_and_says_where_a_file_changed(
    changed: Changed, lines: Callable[..., str], tmp_path: Path
) -> None:
    config = changed(SETTINGS | {"data.train_files": [lines()], "ctwa.run": f"{tmp_path}/run"})
    parts = []
    for _ in range(2):
        _, for_verl, events = handed_over(config)
        parts.append([pq.read_table(for_verl.data[key][0]) for key in ("train_files", "val_files")])
        assert events == []
    assert parts[0] == parts[1]

    lines(44)
    _, _, events = handed_over(config)
    assert [(each["kind"], each["text"].split(":")[0]) for each in events] == [
        ("data-changed", f"{tmp_path}/sums.jsonl")
    ]


@pytest.mark.parametrize("content", ["{", "[]", '{"train_files": {}}'])
def test_what_a_run_began_with_may_be_damaged(
    content: str, changed: Changed, lines: Callable[..., str], tmp_path: Path
) -> None:
    config = changed(SETTINGS | {"data.train_files": [lines()], "ctwa.run": f"{tmp_path}/run"})
    handed_over(config)
    (tmp_path / "run" / "data" / "sources.json").write_text(content)

    with pytest.raises(CtwaError, match=r"sources\.json is not as the run wrote it .*: restore it, or take it away$"):
        handed_over(config)


def test_rows_that_are_left_out_are_counted(changed: Changed, lines: Callable[..., str], tmp_path: Path) -> None:
    source = Path(lines())
    source.write_text(source.read_text().replace('"result": "3"', '"result": "three"'))
    config = {"data.train_files": [str(source)], "data.answer": "last_number", "ctwa.run": f"{tmp_path}/run"}

    with pytest.raises(CtwaError, match=r"row 3 \(from 0\): its result has no number: the text 'three'\. 3 more of 40"):
        read_run_data(changed(SETTINGS | config))
    data, _, events = handed_over(changed(SETTINGS | config | {"data.bad_rows": "skip"}))
    assert data.train.num_rows + data.validation.num_rows == 36
    assert [each["text"] for each in events] == ["data.train_files: 4 rows that cannot be used are left out"]


GEMMA = """{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages if m.role != 'developer' %}{{ m.content }} {% endfor %}"""


class TestWhatTheTemplateRefuses:
    """Rows that no sample is likely to have, by a template that takes no system message and drops a developer's."""

    @pytest.fixture
    def mixed(self, tmp_path: Path) -> dict[str, Any]:
        def row(number: int) -> dict[str, Any]:
            first = {1500: "system", 2700: "developer"}.get(number)
            said = [{"role": first, "content": "mod"}] if first else []
            prompt = [*said, {"role": "user", "content": f"{number % 10} + {number // 10 % 10}"}]
            return {"prompt": prompt, "answer": str((number + number // 10) % 10), "level": number}

        path = tmp_path / "mixed.jsonl"
        path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(3000)))
        return {
            "data.train_files": [str(path)],
            "data.filter_overlong_prompts": True,
            "actor_rollout_ref.model.custom_chat_template": GEMMA,
            "ctwa.max_unknown_tokens": 1.0,
            "ctwa.run": str(tmp_path / "run"),
        }

    def test_the_first_is_told_with_the_others(self, changed: Changed, mixed: dict[str, Any]) -> None:
        said = (
            r"data\.train_files: .*mixed\.jsonl, row 1500 \(from 0\): the model's chat template cannot render its "
            r"prompt \(System role not supported\).*1 more of 3000 rows cannot be used \(row 2700\): mend them, or "
            r"leave them out with data\.bad_rows=skip"
        )
        with pytest.raises(CtwaError, match=said):
            check_config(changed(mixed))

    def test_they_are_left_out_and_counted(self, changed: Changed, mixed: dict[str, Any]) -> None:
        job = TrainJob(changed(mixed | {"data.bad_rows": "skip"}))
        assert job.data.train.num_rows == 2998
        assert "2 rows left out (data.bad_rows=skip; `ctwa data` lists them)" in job.plan()
        assert "leaves out its developer message 'mod' (write it as system)" in job.data.train.rows.bad[1].why

    def test_nor_does_the_engine_take_them_for_too_long(
        self, changed: Changed, mixed: dict[str, Any], task_dir: Path, tmp_path: Path
    ) -> None:
        """In a file in verl's format, of which a sample alone is looked at."""
        from verl.trainer.ppo.utils import create_rl_dataset

        tokenizer = AutoTokenizer.from_pretrained(task_dir / "model")
        tokenizer.chat_template = GEMMA
        rows = [
            {"prompt": row["prompt"], "reward_model": {"ground_truth": row["answer"]}, "data_source": "sums"}
            for row in map(json.loads, Path(mixed["data.train_files"][0]).read_text().splitlines())
        ]
        rows[7]["prompt"][0]["content"] = "1 + " * 20
        for number, (own, said) in enumerate(
            [(rows[1400:1600], "System role not supported"), (rows[2600:], "leaves out its developer message 'mod'")]
        ):
            pq.write_table(pa.Table.from_pylist(own), tmp_path / f"{number}.parquet")
            files = {"data.train_files": [str(tmp_path / f"{number}.parquet")], "ctwa.run": str(tmp_path / said[:6])}
            _, for_verl, _ = handed_over(changed(mixed | files))
            with pytest.raises(CtwaError, match=rf"{number}\.parquet: the model's chat template .*{said}"):
                create_rl_dataset(for_verl.data.train_files, for_verl.data, tokenizer, None)
        pq.write_table(pa.Table.from_pylist(rows[:40]), tmp_path / "sound.parquet")
        files = {"data.train_files": [str(tmp_path / "sound.parquet")], "ctwa.run": str(tmp_path / "sound")}
        _, for_verl, _ = handed_over(changed(mixed | files))
        assert len(create_rl_dataset(for_verl.data.train_files, for_verl.data, tokenizer, None)) == 39


def test_the_plan_says_what_was_understood(changed: Changed, lines: Callable[..., str]) -> None:
    plan = TrainJob(changed(SETTINGS | {"data.train_files": [lines()]})).plan()

    assert "data         30 rows of sums.jsonl: prompt from task, ground truth from result, as it is\n" in plan
    assert "             10 rows held out of them (0.25 of the prompts)\n" in plan
    assert "the first    '<bos> Compute mod 10 : 0 + 0 ?'\n" in plan


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"data.validation_share": None},
            "data.val_files names no file; give one, or data.validation_share=0.1",
        ),
        ({"data.val_files": ["a.jsonl"]}, "data.validation_share=0.25 is for runs without data.val_files; write"),
        ({"data.validation_share": 1}, "data.validation_share: Input should be less than 1"),
        ({"data.answer": "hash"}, "data.answer: Input should be 'as_is', 'hashes', 'boxed' or 'last_number', not hash"),
        ({"data.prompt_template": "Solve"}, "data.prompt_template: the template has 0 times {prompt}; write it once"),
        ({"data.system_prompt": " "}, "data.system_prompt: the system prompt is empty; write one, or null"),
        (
            {"data.columns": {"prompt": "tsk"}},
            "data.columns.prompt=tsk, and {path} has no such column; did you",
        ),
        ({"data.train_files": ["hf://a:b:c:d"]}, "hf://a:b:c:d is no name of a data set: write hf://owner/name:split"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(
    changed: Changed, lines: Callable[..., str], values: dict[str, Any], said: str
) -> None:
    path = lines()
    with pytest.raises(CtwaError) as error:
        read_run_data(changed(SETTINGS | {"data.train_files": [path]} | values))
    assert said.replace("{path}", path) in str(error.value)


def test_a_class_of_the_users_own_reads_by_rules_of_its_own(
    changed: Changed, lines: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "my.py").write_text("class Mine: ...\n")
    config = {"data.custom_cls.path": f"{tmp_path}/my.py", "data.train_files": [lines()]}
    with pytest.raises(CtwaError, match=r"^data\.answer does nothing with data\.custom_cls, whose class reads"):
        read_run_data(changed(config | {"data.answer": "boxed"}))
    assert read_run_data(changed(config)).sample == []


def test_a_row_without_a_ground_truth_where_one_is_asked_for(changed: Changed, lines: Callable[..., str]) -> None:
    said = (
        r"sums\.jsonl, row 0 \(from 0\): it has no ground truth \(nor have 29 others\), which the objectives "
        r"\('accuracy'\) ask for; write 'data\.columns=\{ground_truth: COLUMN\}' \(it has task, result, level\)"
    )
    columns = {"prompt": "task", "ground_truth": None, "data_source": None}
    with pytest.raises(CtwaError, match=said):
        TrainJob(changed(SETTINGS | {"data.train_files": [lines()], "data.columns": columns}))


@pytest.mark.parametrize("command", ["train", "caid"])
def test_our_keys_are_known_and_misspelt_ones_refused(command: str, task_dir: Path) -> None:
    own = ["ctwa.run=runs/a", f"ctwa.task_dir={task_dir}"] + ["ctwa.caid.thresholds={accuracy:0}"] * (command == "caid")
    written = ["data.columns={prompt: 'my question'}", "data.answer=boxed", r"data.prompt_template='\boxed{} {prompt}'"]
    config = compose_config([*own, *written], command=command)

    assert OmegaConf.to_container(config.data.columns) == {
        "prompt": "my question", "ground_truth": None, "data_source": None
    }  # fmt: skip
    assert config.data.prompt_template == r"\boxed{} {prompt}"
    for key, near in [
        ("data.colums.prompt=a", "data.columns.prompt"),
        ("+data.columns.promt=a", "data.columns.prompt"),
        ("data.columns={promt: a}", "data.columns.prompt"),
        ("data.awnser=boxed", "data.answer"),
    ]:
        with pytest.raises(CtwaError, match=rf"did you mean {near}\?"):
            compose_config([*own, key], command=command)


def test_names_of_the_hub_and_of_splits_stay_what_they_are(task_dir: Path) -> None:
    own = ["ctwa.run=runs/a", f"ctwa.task_dir={task_dir}"]
    config = compose_config(
        [*own, "data.train_files=hf://openai/gsm8k:main:train", "data.val_files=[/data/gsm8k:test]"]
    )

    assert config.data.train_files == ["hf://openai/gsm8k:main:train"]
    assert config.data.val_files == ["/data/gsm8k:test"]


def test_validation_files_by_name(changed: Changed, lines: Callable[..., str], task_dir: Path, tmp_path: Path) -> None:
    """Each row knows the name of its file; a reward function still sees the data source of the row."""
    hard = lines(4, "hard.jsonl", data_source="gsm8k")
    more = lines(3, "more.jsonl", data_source="aime")
    own = {"data.columns": SETTINGS["data.columns"] | {"data_source": "data_source"}}
    files = {"data.train_files": [lines(40, data_source="x")], "data.val_files": {"easy": [hard], "rest": [more]}}
    data, for_verl, _ = handed_over(changed(own | files | {"ctwa.run": str(tmp_path / "run")}))

    rows = pq.read_table(for_verl.data.val_files[0]).to_pylist()
    assert [(row["validation_set"], row["data_source"]) for row in rows] == [("easy", "gsm8k")] * 4 + [
        ("rest", "aime")
    ] * 3
    assert "validation_set" not in pq.read_table(for_verl.data.train_files[0]).column_names
    completions = [Completion.unwritten(row) for row in rows]
    assert has_several_sources(data)
    rewards = RewardMatrix.from_columns({"a": [1, 0, None, 1, 1, 1, 0], "b": [NOT_APPLICABLE] * 4 + [0.5] * 3})
    assert validation_by_source(completions, rewards, torch.arange(7)) == {
        "val_source/a/easy": pytest.approx(2 / 3),
        "val_source_standard_error/a/easy": pytest.approx(1 / 3),
        "val_source/a/rest": pytest.approx(2 / 3),
        "val_source_standard_error/a/rest": pytest.approx(1 / 3),
        "val_source/b/rest": 0.5,
        "val_source_standard_error/b/rest": 0,
    }
    assert training_by_source(completions, rewards).keys() == {
        "objective_source/a/easy",
        "objective_source/a/rest",
        "objective_source/b/rest",
    }
    with pytest.raises(CtwaError, match="the rows have a column 'validation_set' already"):
        read_run_data(
            changed(
                own | files | {"data.val_files": {"easy": [lines(2, "a.jsonl", data_source="x", validation_set="b")]}}
            )
        )


def test_one_source_or_one_a_row_has_no_curves_by_source(changed: Changed, lines: Callable[..., str]) -> None:
    own = {**SETTINGS, "data.columns": {"prompt": "task", "ground_truth": "result", "data_source": "level"}}
    assert not has_several_sources(read_run_data(changed(SETTINGS | {"data.train_files": [lines()]})))
    assert not has_several_sources(read_run_data(changed(own | {"data.train_files": [lines()]})))  # 40 of 40 rows
    assert has_several_sources(read_run_data(changed(own | {"data.train_files": [lines(20)]})))


def test_validation_files_by_name_are_made_absolute(task_dir: Path) -> None:
    overrides = [
        f"ctwa.task_dir={task_dir}",
        "ctwa.run=run",
        "data.val_files={easy: a.jsonl, rest: [b.jsonl, /c.jsonl]}",
    ]
    found = OmegaConf.to_container(compose_config(overrides).data.val_files)
    here = str(Path.cwd())
    assert found == {"easy": [f"{here}/a.jsonl"], "rest": [f"{here}/b.jsonl", "/c.jsonl"]}
