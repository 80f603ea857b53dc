"""What is said about data, reward functions, models and prompts before a run starts, and that nothing is left then."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf

from ctwa.engine.caid_settings import read_caid_settings
from ctwa.engine.checks.config import check_config
from ctwa.engine.checks.look import look_at_trained_model
from ctwa.engine.checks.model import check_attention
from ctwa.engine.compose import compose_config
from ctwa.engine.data import read_run_data
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError

Changed = Callable[[dict[str, Any]], DictConfig]

MODEL = "actor_rollout_ref.model"
FUNCTION = "ctwa.objectives.accuracy"


def rows(number: int = 40, **columns: Any) -> list[dict[str, Any]]:
    made = [
        {
            "data_source": "tests",
            "prompt": [{"role": "user", "content": f"Compute mod 10 : {row % 10} + 1 ?"}],
            "reward_model": {"style": "rule", "ground_truth": str((row + 1) % 10)},
            "extra_info": {"index": row, "budget": 32.0},
            **columns,
        }
        for row in range(number)
    ]
    return [{name: value for name, value in row.items() if value != "gone"} for row in made]


def parquet(path: Path, content: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(content), path)
    return str(path)


def jsonl(path: Path, content: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("key", ["train_files", "val_files"])
@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"prompt": []}, "row 0 (from 0): its prompt is an empty list"),
        ({"prompt": None}, "row 0 (from 0): its prompt is null"),
        ({"prompt": [{"content": "a"}]}, "has no role"),
        ({"prompt": [{"role": "user"}]}, "has no content"),
        ({"prompt": user(None)}, "has no content"),
        ({"prompt": user("")}, "is a user's and empty"),
        ({"prompt": [{"role": "human", "content": "a"}]}, "has the role 'human'; write 'user'"),
        (
            {"prompt": user("1 + " * 20)},
            "all prompts that were looked at (40) are longer than data.max_prompt_length=16,",
        ),
        ({"prompt": user("Solve x squared equals nine for x")}, "does not know 88% of the tokens of data."),
        ({"reward_model": None}, "it has no reward_model, which the objectives ('accuracy') ask for"),
        ({"reward_model": "gone"}, "it has no reward_model, which the objectives ('accuracy') ask for"),
        ({"reward_model": "7"}, "its reward_model is the text '7'"),
        ({"reward_model": {"style": "rule"}}, "it has no ground truth in its reward_model"),
        ({"reward_model": {"ground_truth": None}}, "it has no ground truth in its reward_model"),
        ({"extra_info": "easy"}, "its extra_info is the text 'easy'"),
    ],
    ids=str,
)
def test_rows_that_cannot_be_trained_on(
    changed: Changed, tmp_path: Path, key: str, columns: dict[str, Any], fault: str
) -> None:
    for path in (parquet(tmp_path / "a.parquet", rows(**columns)), jsonl(tmp_path / "a.jsonl", rows(**columns))):
        with pytest.raises(CtwaError) as error:
            check_config(changed({f"data.{key}": [path]}))
        assert fault in str(error.value)
        assert path in str(error.value) or f"data.{key}" in str(error.value)


def test_one_row_among_many(changed: Changed, tmp_path: Path) -> None:
    content = rows(300)
    content[217]["prompt"] = user(" ")

    with pytest.raises(
        CtwaError, match=r"a\.parquet, row 217 \(from 0\): message 0 of its prompt is a user's and empty"
    ):
        check_config(changed({"data.train_files": [parquet(tmp_path / "a.parquet", content)]}))


def test_one_prompt_that_is_too_long(changed: Changed, tmp_path: Path) -> None:
    content = rows(30)
    content[3]["prompt"] = user("1 + " * 20)
    files = {"data.train_files": [parquet(tmp_path / "a.parquet", content)]}

    with pytest.raises(
        CtwaError, match=r"row 3 \(from 0\): its prompt has 41 tokens, more than data.max_prompt_length=16"
    ):
        check_config(changed(files))
    check_config(changed(files | {"data.filter_overlong_prompts": True}))


def test_rows_of_two_kinds_in_one_column(changed: Changed, tmp_path: Path) -> None:
    content = rows()
    content[5]["reward_model"]["ground_truth"] = 6

    with pytest.raises(
        CtwaError, match=r"row 5 \(from 0\): its reward_model.ground_truth is a number, and that of row 0"
    ):
        check_config(changed({"data.train_files": [jsonl(tmp_path / "a.jsonl", content)]}))


def test_json_lines_train_as_parquet_does(changed: Changed, tmp_path: Path) -> None:
    lines = jsonl(tmp_path / "a.jsonl", rows(40))
    (tmp_path / "b.json").write_text(json.dumps(rows(3)))

    config = changed({"data.train_files": [lines], "data.val_files": [str(tmp_path / "b.json")]})
    plan = TrainJob(config).plan()

    assert "prompts      9 to 9 tokens (40 looked at, at most 16 are taken)\n" in plan
    assert "the first    '<bos> Compute mod 10 : 0 + 1 ?'\n" in plan


def test_a_validation_file_without_rows(changed: Changed, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(1)).slice(0, 0)
    pq.write_table(table, tmp_path / "none.parquet")

    with pytest.raises(CtwaError, match=r"data\.val_files: .*none\.parquet has no row; give a file that has some"):
        check_config(changed({"data.val_files": [str(tmp_path / "none.parquet")]}))


def test_a_class_of_the_users_own_reads_what_it_likes(changed: Changed, tmp_path: Path) -> None:
    own = parquet(tmp_path / "a.parquet", [{"question": "1 + 1"}] * 40)

    (tmp_path / "my_data.py").write_text("class MyData: ...")

    check_config(changed({"data.train_files": [own], "data.custom_cls.path": f"{tmp_path}/my_data.py"}))
    with pytest.raises(CtwaError, match=r"data\.custom_cls\.path: there is no file nowhere\.py; give the file"):
        check_config(changed({"data.train_files": [own], "data.custom_cls.path": "nowhere.py"}))


class TestFunctions:
    @pytest.mark.parametrize(
        ("code", "values", "sentence"),
        [
            ("def f(response) return 1", {}, "importing {file} failed with SyntaxError: "),
            (
                "import no_such_package\ndef f(response): ...",
                {},
                "failed with ModuleNotFoundError: No module named 'no_su",
            ),
            ("raise SystemExit(3)", {}, "failed with SystemExit: 3"),
            ("import os; os._exit(3)", {}, "ended the worker process (exit status 3)"),
            ("def accuracy(response): ...\nf2 = 1", {}, "has no function 'f', it has 'accuracy'"),
            ("def ff(response): ...", {}, "has no function 'f', it has 'ff'; did you mean 'ff'?"),
            ("def f(respnse): ...", {}, "requires 'respnse', which is not offered; .*; did you mean 'response'?"),
            (
                "def f(response, limit=3): ...",
                {"limt": 4},
                "kwargs give 'limt', .* takes 'response', 'limit'; did you mean",
            ),
            ("def f(response, limit): ...", {}, "requires 'limit', which is not offered"),
            (
                "def f(reference_tokens): ...",
                {},
                "objective 'accuracy' asks for reference_tokens, and there are none: ",
            ),
            ("def f(completions, colour): ...", {}, "it has no column 'colour', which the objective 'accuracy' asks"),
            ("def f(completions, trainer_state): ...", {}, "requires 'trainer_state', an object of another trainer"),
        ],
    )
    def test_one_that_a_run_could_not_call(
        self, changed: Changed, tmp_path: Path, code: str, values: dict[str, Any], sentence: str
    ) -> None:
        file = tmp_path / "rewards.py"
        file.write_text(code + "\n")
        config = changed({f"{FUNCTION}.reward_fn": f"{file}:f", f"{FUNCTION}.kwargs": values})
        start, _, end = sentence.format(file=file).partition(" .*")

        with pytest.raises(CtwaError) as error:
            TrainJob(config).make_folder()
        assert start in str(error.value)
        assert end in str(error.value)
        assert not Path(config.ctwa.run).exists()  # the corrected command is not refused

    @pytest.mark.parametrize("code", ["def f(response): return 1", "def f(response, ground_truth=None): return 1"])
    def test_one_that_needs_no_ground_truth(self, changed: Changed, tmp_path: Path, code: str) -> None:
        (tmp_path / "rewards.py").write_text(code + "\n")
        files = [parquet(tmp_path / "a.parquet", rows(reward_model="gone"))]
        objectives = {
            name: {"reward_fn": f"{tmp_path}/rewards.py:f", "target": 0.1}
            for name in ("accuracy", "conciseness", "clarity")
        }

        check_config(changed({"data.train_files": files, "data.val_files": files, "ctwa.objectives": objectives}))


class TestModels:
    @pytest.fixture
    def folder(self, task_dir: Path, tmp_path: Path) -> Path:
        return shutil.copytree(task_dir / "model", tmp_path / "model")

    def said(self, changed: Changed, folder: Path, **values: Any) -> str:
        with pytest.raises(CtwaError) as error:
            check_config(changed({f"{MODEL}.path": str(folder), **{f"{MODEL}.{k}": v for k, v in values.items()}}))
        return str(error.value)

    def test_its_folder_is_looked_at(self, changed: Changed, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        assert f"{MODEL}.path: {folder} has no weights" in self.said(changed, folder)

    def test_a_template_that_is_missing(self, changed: Changed, folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        template = "{{ bos_token }} {{ messages[0]['content'] }}"

        assert "has no chat template, and prompts are chat messages; give" in self.said(changed, folder)
        check_config(changed({f"{MODEL}.path": str(folder), f"{MODEL}.custom_chat_template": template}))

    @pytest.mark.parametrize(
        ("template", "sentence"),
        [
            ("{{ raise_exception('System role not supported') }}", r"cannot render its prompt \(System role not supp"),
            ("{{ messages[0]['content'].no.such }}", r"cannot render its prompt \("),
            ("{# nothing #}", "makes nothing of its prompt"),
            ("{{ bos_token }} {{ messages[-1]['content'][:9] }}", "leaves out its user message 'Compute mod 10"),
        ],
    )
    def test_a_template_that_does_not_take_the_prompt(
        self, changed: Changed, folder: Path, template: str, sentence: str
    ) -> None:
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(
            CtwaError, match=rf"data.train_files: .*, row 0 \(from 0\): the model's chat template {sentence}"
        ):
            check_config(changed({f"{MODEL}.path": str(folder)}))

    def test_a_tokenizer_without_an_end(self, changed: Changed, folder: Path) -> None:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        del settings["eos_token"]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))

        assert "has a tokenizer without an end-of-sequence token" in self.said(changed, folder)

    def test_another_folder_of_the_tokenizer(self, changed: Changed, folder: Path, tmp_path: Path) -> None:
        said = self.said(changed, folder, tokenizer_path=str(tmp_path / "none"))
        assert said.startswith(f"{MODEL}.tokenizer_path: {tmp_path}/none does not exist")

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"override_config.attn_implementation": "sdpaa"}, r"=sdpaa is no attention of .*; did you mean 'sdpa'\?"),
            ({"lora_rank": 4, "target_modules": ["q_proj", "qproj"]}, r"has no qproj: .*; did you mean 'q_proj'\?"),
            ({"lora_rank": 4, "target_modules": "q_proj"}, r"=q_proj: a text is a pattern of whole names, such as .*"),
            ({"lora_rank": 4, "target_modules": "*_proj"}, r"=\*_proj: .* of none: write a list, e.g. \[\w+\], or all"),
        ],
    )
    def test_names_of_parts_that_it_has_not(self, changed: Changed, values: dict[str, object], sentence: str) -> None:
        config = changed({f"actor_rollout_ref.model.{key}": value for key, value in values.items()})

        with pytest.raises(CtwaError, match=sentence):
            check_config(config)

    @pytest.mark.parametrize("named", [None, [], ["Qwen2ForCausalLM"] * 2])
    def test_it_is_of_one_architecture_as_verl_wants_it(self, changed: Changed, folder: Path, named: Any) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | {"architectures": named}))

        assert self.said(changed, folder).endswith(
            f"names {len(named or []) or 'no'} architectures in its config.json, where verl wants one: write "
            '"architectures": ["Qwen2ForCausalLM"] there'
        )

    @pytest.mark.parametrize("key", ["num_hidden_layers", "intermediate_size", "vocab_size"])
    def test_it_is_trained_with_the_sizes_of_its_weights(self, changed: Changed, folder: Path, key: str) -> None:
        has = json.loads((folder / "config.json").read_text())[key]

        said = self.said(changed, folder, override_config={"attn_implementation": "sdpa", key: 1})
        assert said.startswith(f"{MODEL}.override_config.{key}=1: the weights are of a model with {has}, ")
        check_config(changed({f"{MODEL}.override_config": {"attn_implementation": "sdpa", key: has}}))

    def test_a_config_of_another_folder_is_looked_at(self, changed: Changed, folder: Path, tmp_path: Path) -> None:
        of_vllm = {"actor_rollout_ref.rollout.name": "vllm"}  # our own servers take the model's own
        with pytest.raises(CtwaError, match=rf"^{MODEL}\.hf_config_path: {tmp_path}/none does not exist"):
            look_at_trained_model(changed(of_vllm | {f"{MODEL}.hf_config_path": str(tmp_path / "none")}))
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | {"intermediate_size": 8}))
        with pytest.raises(CtwaError, match=rf"^{MODEL}\.path: .* has weights of other sizes than its config\.json"):
            look_at_trained_model(changed(of_vllm | {f"{MODEL}.hf_config_path": str(folder)}))

    def test_packed_rows_are_for_cpus(self, changed: Changed) -> None:
        packed = {f"{MODEL}.override_config.attn_implementation": "ctwa_packed"}
        check_config(changed(packed))

        with pytest.raises(CtwaError, match="=ctwa_packed is no attention of transformers"):
            check_attention(changed(packed | {"trainer.device": "cuda"}))

    @pytest.mark.parametrize("targets", [["q_proj", "self_attn.v_proj"], "all-linear", r".*\.q_proj"])
    def test_an_adapter_in_parts_that_it_has(self, changed: Changed, targets: object) -> None:
        check_config(
            changed({"actor_rollout_ref.model.lora_rank": 4, "actor_rollout_ref.model.target_modules": targets})
        )

    def test_an_adapter_that_is_none(self, changed: Changed, folder: Path, tmp_path: Path) -> None:
        said = self.said(changed, folder, lora_adapter_path=str(tmp_path / "model"))
        assert said.startswith(
            f"{MODEL}.lora_adapter_path: {folder} has no adapter_config.json that can be read (No such"
        )

    def test_so_many_unknown_tokens_may_be_wanted(self, changed: Changed, tmp_path: Path) -> None:
        files = [parquet(tmp_path / "a.parquet", rows(prompt=user("What is 1 + 1 ?")))]
        config = {"data.train_files": files, "data.val_files": files}

        with pytest.raises(CtwaError, match=r"does not know 14% .* first prompt as \"?'<bos> <unused0> is 1 \+ 1 \?'"):
            check_config(changed(config))
        check_config(changed(config | {"ctwa.max_unknown_tokens": 0.2}))


def test_caid_looks_too(task_dir: Path, tmp_path: Path) -> None:
    own = ["ctwa.run=run", f"ctwa.task_dir={task_dir}", "ctwa.caid.thresholds={accuracy:0.1}"]
    config = compose_config([*own, f"ctwa.policies={{safety:{task_dir}}}"], command="caid")
    read_caid_settings(config, read_run_data(config))
    for key, value, sentence in [
        ("data.val_files", [parquet(tmp_path / "a.parquet", rows(prompt=[]))], "its prompt is an empty list"),
        (f"{FUNCTION}.reward_fn", "ctwa.testbed.rewards:acuracy", "did you mean 'accuracy'"),
        ("ctwa.policies.safety", str(task_dir / "none"), "ctwa.policies.safety: "),
    ]:
        changed = copy.deepcopy(config)
        OmegaConf.update(changed, key, value)
        with pytest.raises(CtwaError, match=sentence):
            read_caid_settings(changed, read_run_data(changed))


def test_a_class_for_the_data_that_is_nowhere(changed: Changed) -> None:
    with pytest.raises(CtwaError, match=r"^data\.custom_cls\.path: there is no file /none\.py; give the file of"):
        check_config(changed({"data.custom_cls.path": "/none.py"}))


def test_rows_longer_than_the_model_takes(changed: Changed) -> None:
    longer = {"data.max_response_length": 5000, "actor_rollout_ref.rollout.response_length": 5000}
    said = r"has places for 4096 tokens .*max_response_length = 5016: write less, or give"
    with pytest.raises(CtwaError, match=said):
        check_config(changed(longer))
    check_config(changed({**longer, f"{MODEL}.override_config": {"max_position_embeddings": 8192}}))


def test_it_takes_no_time_to_speak_of(testbed_config: DictConfig) -> None:
    check_config(testbed_config)  # what it imports is imported
    began = time.process_time()
    check_config(testbed_config)

    assert time.process_time() - began < 1.5
