"""`ctwa data`: what it shows of rows, and that the command it ends with means the same rows."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.data.settings import Columns, DataSettings
from ctwa.data.show import command
from ctwa.engine.compose import compose_config
from ctwa.engine.data import data_settings
from ctwa.errors import CtwaError
from ctwa.testbed.tokenizer import build_tokenizer
from tests.data.rows import FORMS

Write = Callable[..., str]


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture
def sums(tmp_path: Path) -> Callable[..., str]:
    def file(name: str = "sums.jsonl", numbers: Any = range(40), **changes: dict[str, Any]) -> str:
        rows = [{"question": f"Compute mod 10 : {n} + 1 ?", "answer": f"#### {n + 1}"} for n in numbers]
        for row, columns in changes.items():
            rows[int(row.removeprefix("row"))].update(columns)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return file


def test_what_was_understood(sums: Callable[..., str]) -> None:
    source = sums(row7={"question": "Compute mod 10 : 3 + 1 ?"}, row9={"answer": "ten"}, row11={"question": None})
    text = shown(source)

    for line in (
        f"{source}: 40 rows, JSON Lines",
        "  columns       question, answer",
        "  prompt        question; a text becomes a user's message",
        "  ground truth  answer, what stands behind the last #### (--answer=hashes)",
        "  data_source   sums",
        "  rows          38 rows can be used; 2 cannot, and stop a run, but for data.bad_rows=skip:",
        "                  row 9: its answer has no #### with something behind it: the text 'ten'",
        "                  row 11: its question is null; write a list of messages",
        "  duplicates    1 prompt stands in several rows, the first in the rows 3, 7",
        "--- row 0, ground truth '1'",
        "user: Compute mod 10 : 0 + 1 ?",
    ):
        assert line in text
    assert "tokens" not in text
    assert "    data.bad_rows=skip \\\n" in text  # of the command, which would stop at them


def test_no_two_empty_lines_stand_together(sums: Callable[..., str]) -> None:
    for options in ([], ["--val-files", sums("val.jsonl", range(40, 50))], ["--validation-share", "0.2"]):
        text = shown(sums(), *options)

        assert "\n\n" in text
        assert "\n\n\n" not in text


def test_a_validation_file_and_a_share(sums: Callable[..., str]) -> None:
    source = sums()
    other = sums("test.jsonl", numbers=[3, 4, 90])
    assert "overlap: 2 rows of the validation have a prompt that is trained on (rows 0, 1)" in shown(
        source, "--val-files", other
    )
    text = shown(source, "--validation-share", "0.25")
    assert "held out: 10 rows, 0.25 of the prompts (validation_seed 0); 30 are left to train on" in text
    assert "overlap: no prompt of the validation is trained on" in text
    with pytest.raises(CtwaError, match="--val-files and --validation-share both say what is validated on"):
        shown(source, "--val-files", other, "--validation-share", "0.25")


def test_lengths_by_the_tokenizer_of_a_model(sums: Callable[..., str], tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path / "model")
    source = sums(row5={"question": "1 + " * 20})
    text = shown(source, "--model", str(tmp_path / "model"), "--max-prompt-length", "16")

    assert "tokens of a prompt: least 9  50% 9  90% 9  99% 9  most 41" in text
    assert "longer than data.max_prompt_length=16, and left out by task=custom: 1: rows 5" in text
    assert "3 prompts, as the model reads them:\n--- row 0, ground truth '1'\n<bos> Compute mod 10 : 0 + 1 ?\n" in text


def test_a_model_without_a_chat_template(sums: Callable[..., str], tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(CtwaError, match=r"--model: .*model has no chat template, and prompts are chat messages; give"):
        shown(sums(), "--model", str(tmp_path / "model"))


def test_a_chat_template_that_leaves_out_a_message(sums: Callable[..., str], tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ bos_token }} {{ messages[-1]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "model")

    with pytest.raises(CtwaError, match=r"row 0 \(from 0\): .*template leaves out its system message 'Be brief.'"):
        shown(sums(), "--model", str(tmp_path / "model"), "--system-prompt", "Be brief.")


@pytest.mark.parametrize("form", FORMS)
def test_every_form(write: Write, form: str) -> None:
    text = shown(write(FORMS[form][0]))
    assert "3 rows can be used; none cannot" in text or "3 of them without a ground truth; none cannot" in text
    assert "ctwa train task=custom" in text


@pytest.mark.parametrize(
    "settings",
    [
        DataSettings(validation_share=0.25, validation_seed=7),
        DataSettings(validation_share=0.1, columns=Columns(prompt="my question", ground_truth="answer.value")),
        DataSettings(validation_share=0.1, answer="last_number", bad_rows="skip", system_prompt="Don't; 'lie' \\"),
        DataSettings(validation_share=0.1, prompt_template='Solve {x}: {prompt}\n\\boxed{}, \\\'$y [1,2] "a"=b'),
        DataSettings(validation_share=0.1, system_prompt="null", prompt_template="{prompt}"),
        DataSettings(validation_share=0.1, system_prompt="1e3"),
    ],
    ids=range(6),
)
def test_the_command_says_the_same_to_a_run(settings: DataSettings, tmp_path: Path) -> None:
    written = command(
        f"{tmp_path}/my data.jsonl", settings, validation=None, model="my/model", max_prompt_length=77
    ).replace("\\\n", " ")
    overrides = shlex.split(written)[2:]
    config = compose_config(overrides)

    assert data_settings(config) == settings
    assert config.data.train_files == [f"{tmp_path}/my data.jsonl"]
    assert config.data.max_prompt_length == 77
    assert config.data.val_files is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--columns", "prompt"], "--columns prompt cannot be read; write e.g. --columns '{prompt: question}'"),
        (["--columns", "{promt: question}"], "promt is no key of the configuration; did you mean 'prompt'?"),
        (["--columns", "{prompt: qestion}"], "--columns.prompt=qestion, and {source} has no such column; did you mean"),
        (["--answer", "hash"], "answer: Input should be 'as_is', 'hashes', 'boxed' or 'last_number', not hash"),
        (
            ["--system-prompt", "Solve ${x}$"],
            "--system-prompt: it has ${, which a configuration takes for another key; w",
        ),
        (["--prompt-template", "Solve"], "--prompt-template: the template has 0 times {prompt}; write it once"),
    ],
    ids=str,
)
def test_options_that_cannot_be(sums: Callable[..., str], arguments: list[str], said: str) -> None:
    source = sums()
    with pytest.raises(CtwaError) as error:
        shown(source, *arguments)
    assert said.replace("{source}", source) in str(error.value)


def test_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\n")
    with pytest.raises(CtwaError, match=r"a\.csv has no row; give another file"):
        shown(str(tmp_path / "a.csv"))


def test_it_needs_no_torch(sums: Callable[..., str]) -> None:
    code = (
        "import sys; from ctwa.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules or 'datasets' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, "data", sums()], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize("form", ["gsm8k", "math", "trl messages", "openai", "sharegpt", "verl"])
def test_check_reward_takes_every_form(write: Write, tmp_path: Path, form: str) -> None:
    rows, expected = FORMS[form]
    (tmp_path / "right.py").write_text("def right(response, ground_truth): return float(ground_truth in response)\n")
    arguments = ["check-reward", f"{tmp_path}/right.py:right", "--data", write(rows), "--text", expected[1][1]]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)

    assert result.exit_code == 0
    assert " ".join(result.output.split("mean")[1].split()).find("0.3333") > 0
