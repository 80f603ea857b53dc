import importlib.util
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_math500.py"
spec = importlib.util.spec_from_file_location("prepare_math500", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
main = script.main

PROBLEMS = [
    {
        "problem": f"What is ${i} + 1$?",
        "solution": f"It is $\\boxed{{{i + 1}}}$.",
        "answer": str(i + 1),
        "subject": "Algebra",
        "level": 1 + i % 5,
        "unique_id": f"test/algebra/{i}.json",
    }
    for i in range(20)
]
SIZES = ["--sizes", "12", "4", "4"]


def write(rows, path):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def read(folder, name):
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


@pytest.fixture
def raw(tmp_path):
    return write(PROBLEMS, tmp_path / "raw.parquet")


def refused(arguments, capsys):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1  # one sentence, no traceback
    return output.err


def test_splits_are_the_documented_shuffle(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--from", raw, "--out", str(out), *SIZES]) == 0
    assert (
        capsys.readouterr().out
        == f"{out}: train.parquet 12 problems, val.parquet 4 problems, test.parquet 4 problems\n"
    )
    order = list(range(20))
    random.Random(42).shuffle(order)
    ids = [row["unique_id"] for name in ("train", "val", "test") for row in read(out, name)]
    assert ids == [PROBLEMS[i]["unique_id"] for i in order]


def test_rows_are_in_verls_format(raw, tmp_path):
    main(["--from", raw, "--out", str(tmp_path / "out"), *SIZES])
    row = read(tmp_path / "out", "val")[2]
    source = next(problem for problem in PROBLEMS if problem["unique_id"] == row["unique_id"])
    assert row == {
        "solution": source["solution"],
        "subject": "Algebra",
        "level": source["level"],
        "unique_id": source["unique_id"],
        "data_source": "HuggingFaceH4/MATH-500",
        "prompt": [
            {
                "role": "user",
                "content": source["problem"]
                + r" Let's think step by step and output the final answer within \boxed{}.",
            }
        ],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": source["answer"]},
        "extra_info": {"index": 2, "split": "val"},
    }


def test_same_seed_same_files_and_another_seed_another_split(raw, tmp_path):
    for name, seed in (("a", "42"), ("b", "42"), ("c", "7")):
        main(["--from", raw, "--out", str(tmp_path / name), "--seed", seed, *SIZES])
    assert read(tmp_path / "a", "train") == read(tmp_path / "b", "train")
    assert read(tmp_path / "a", "train") != read(tmp_path / "c", "train")


def test_a_folder_of_shards_is_one_source(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    write(PROBLEMS[:11], shards / "test-00000-of-00002.parquet")
    write(PROBLEMS[11:], shards / "test-00001-of-00002.parquet")
    write(PROBLEMS, tmp_path / "whole.parquet")
    assert main(["--from", str(shards), "--out", str(tmp_path / "a"), *SIZES]) == 0
    assert main(["--from", str(tmp_path / "whole.parquet"), "--out", str(tmp_path / "b"), *SIZES]) == 0
    assert read(tmp_path / "a", "train") == read(tmp_path / "b", "train")


def test_ready_splits_pass_through(raw, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    main(["--from", raw, "--out", str(first), *SIZES])
    (first / "test.parquet").unlink()
    capsys.readouterr()
    assert main(["--from", str(first), "--out", str(second)]) == 0
    assert capsys.readouterr().out == f"{second}: train.parquet 12 problems, val.parquet 4 problems\n"
    assert read(second, "train") == read(first, "train")
    assert read(second, "val") == read(first, "val")
    assert not (second / "test.parquet").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "What is 1 + 1?"}, "val.parquet, row 1: prompt must be a list of messages"),
        ({"prompt": []}, "val.parquet, row 1: prompt must be a list of messages"),
        (
            {"reward_model": {"style": "rule", "ground_truth": ""}},
            "val.parquet, row 1: reward_model must have a ground_tr",
        ),
    ],
)
def test_ready_splits_are_checked(raw, tmp_path, capsys, change, message):
    ready = tmp_path / "ready"
    main(["--from", raw, "--out", str(ready), *SIZES])
    capsys.readouterr()
    rows = read(ready, "val")
    if "prompt" in change:  # a column has one type
        rows = [{**row, "prompt": row["prompt"] if isinstance(change["prompt"], list) else "text"} for row in rows]
    rows[1].update(change)
    if isinstance(change.get("prompt"), str):
        message = message.replace("row 1", "row 0")
    write(rows, ready / "val.parquet")
    assert message in refused(["--from", str(ready), "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


def test_user_mistakes_are_one_sentence(raw, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert "nowhere does not exist" in refused(["--from", str(tmp_path / "nowhere"), *out], capsys)
    assert "raw.parquet has 20 problems and the splits want 300 + 100 + 100" in refused(["--from", raw, *out], capsys)
    assert "write positive --sizes" in refused(["--from", raw, *out, "--sizes", "5", "0", "5"], capsys)

    (tmp_path / "text.parquet").write_text("not parquet")
    assert "cannot be read as parquet" in refused(["--from", str(tmp_path / "text.parquet"), *out], capsys)

    (tmp_path / "empty").mkdir()
    assert "empty holds no .parquet file" in refused(["--from", str(tmp_path / "empty"), *out], capsys)

    renamed = write([{"question": row["problem"], "answer": row["answer"]} for row in PROBLEMS], tmp_path / "q.parquet")
    assert "has no column problem (it has question, answer)" in refused(["--from", renamed, *out, *SIZES], capsys)

    blank = write([{**row, "answer": " "} for row in PROBLEMS], tmp_path / "blank.parquet")
    assert "the answer ' ' is not a text" in refused(["--from", blank, *out, *SIZES], capsys)

    assert "raw.parquet is a file: write a folder after --out" in refused(["--from", raw, "--out", raw, *SIZES], capsys)
    assert not (tmp_path / "out").exists()


def test_real_data_passes_through(tmp_path):
    folder = os.environ.get("CTWA_MATH500")
    if folder is None:
        pytest.skip("set CTWA_MATH500 to a folder with train.parquet and val.parquet of MATH-500")
    assert main(["--from", folder, "--out", str(tmp_path / "out")]) == 0
    for name, count in (("train", 300), ("val", 100)):
        rows = read(tmp_path / "out", name)
        assert rows == read(Path(folder), name)
        assert len(rows) == count
        assert all(row["prompt"][0]["content"].endswith(script.INSTRUCTION) for row in rows)
