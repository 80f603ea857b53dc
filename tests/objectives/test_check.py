import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives.check import check_reward
from ctwa.objectives.check_command import main
from ctwa.objectives.completion import Moment
from tests.objectives.checking import REWARDS, RewardFile, rows, run_main, shown


def test_rows_without_responses_are_probed_and_that_is_said(reward_file: RewardFile) -> None:
    path = reward_file("""
        def f(response, ground_truth, prompt, data_source, extra_info, row):
            assert prompt == f"What is {extra_info['index']} + 1?" and data_source == "sums"
            assert row == {"level": extra_info["index"]}
            return None if response == "" else response == f"\\\\boxed{{{ground_truth}}}"
    """)
    result = check_reward(f"{path}:f", rows(2))
    found = [(item.row, item.kind, item.completion.response, item.outcome.value) for item in result.checked]
    assert [each for each in found if each[1] in ("ground truth", "wrong answer", "empty")] == [
        (0, "ground truth", "\\boxed{1}", 1.0),
        (0, "wrong answer", "\\boxed{2}", 0.0),
        (0, "empty", "", None),
        (1, "ground truth", "\\boxed{2}", 1.0),
        (1, "wrong answer", "\\boxed{1}", 0.0),
        (1, "empty", "", None),
    ]
    text = shown(result)
    assert "the data has no responses: probed are ground truth, wrong answer, empty, sentence, tags, steps" in text
    assert "none 2" in text
    assert "17% could not be scored: with max_unscored=0.05 a run would stop here" in text


def test_a_single_row_has_a_wrong_answer_too(reward_file: RewardFile) -> None:
    path = reward_file("def f(response): return 1")
    result = check_reward(f"{path}:f", rows(1))
    assert [item.completion.response for item in result.checked[:3]] == ["\\boxed{1}", "\\boxed{0}", ""]
    assert "every value is 1: nothing here is told from anything else; give --text or --responses" in shown(result)


def test_a_reward_of_the_form_is_not_0_on_every_probe(reward_file: RewardFile) -> None:
    path = reward_file(r"""
        import re
        FORMS = {
            "tags": r"<think>.*?</think>\s*<answer>.*?</answer>", "steps": r"Step 1.*Step 2.*", "gsm8k": r".*#### \S+",
        }
        def f(response, form): return float(bool(re.fullmatch(FORMS[form], response.strip(), re.S)))
    """)
    for form in ("tags", "steps", "gsm8k"):
        values = [item.outcome.value for item in check_reward(f"{path}:f", rows(2), kwargs={"form": form}).checked]
        assert set(values) == {0.0, 1.0}, form


def test_a_text_can_be_given_on_the_command_line(reward_file: RewardFile, data: Callable[..., Path]) -> None:
    spec = reward_file("def f(response): return len(response)") + ":f"
    status, text = run_main(spec, data(rows(3)), texts=["abcd", "a"])
    assert status == 0
    assert "the response is the text given" in text
    assert re.search(r"response\s+│\s+6 │\s+6 │\s+2.5 │\s+1 │\s+4 │", text)
    with pytest.raises(CtwaError, match="--text and --responses all give the responses"):
        main([spec], data(rows(3)), texts=["abcd"], responses="answer")


def test_json_lines_are_rows_too(reward_file: RewardFile, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(3)))
    status, text = run_main(reward_file("def f(response): return 1") + ":f", tmp_path / "data.jsonl", limit=2)
    assert status == 0
    assert "ground truth" in text


def test_the_column_response_is_used_where_there_is_one(reward_file: RewardFile) -> None:
    path = reward_file("def f(response, response_tokens, reference_tokens): return response_tokens / reference_tokens")
    result = check_reward(f"{path}:f", rows(2, response=["a b c", "a b c d e f g"]))
    assert [item.outcome.value for item in result.checked] == [4 / 6, 8 / 6]
    text = shown(result)
    assert "the responses are the data's column 'response'" in text
    assert "response_tokens counts words, and one for the end: --tokenizer names one to ask" in text
    assert "reference_tokens is the mean of these, 6.0" in text
    assert check_reward(f"{path}:f", rows(1, response=["a"]), reference_tokens=4).checked[0].outcome.value == 0.5


def test_several_responses_of_a_row_are_a_group(reward_file: RewardFile) -> None:
    path = reward_file("def f(group_response, ground_truth): return [len(group_response)] * len(group_response)")
    result = check_reward(f"{path}:f", rows(2), responses=[["a", "b", "c"], ["d"]])
    assert [(item.row, item.outcome.value) for item in result.checked] == [(0, 3), (0, 3), (0, 3), (1, 1)]


def test_rows_of_one_prompt_are_groups_with_their_own_ground_truths(reward_file: RewardFile) -> None:
    path = reward_file("""
        def alone(response, ground_truth): return float(ground_truth in response)
        def group(group_response, ground_truth): return [float(ground_truth in each) for each in group_response]
        def batch(completions: list[str], ground_truths):
            return [float(a in b) for a, b in zip(ground_truths, completions)]
    """)
    same = [{**row, "prompt": "What is 1 + 1?"} for row in rows(3)]
    for name in ("alone", "group", "batch"):
        result = check_reward(f"{path}:{name}", same, responses=[["it is 1", "it is 3"]] * 3)
        assert [item.outcome.value for item in result.checked] == [1, 0, 0, 0, 0, 1], name


def test_parts_of_what_a_function_returns_are_checked_by_their_keys(
    reward_file: RewardFile, data: Callable[..., Path], tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    path = reward_file(f"""
        def score(response, most=9):
            with open({str(calls)!r}, "a") as file: file.write("x")
            return {{"acc": float("right" in response), "len/words": min(len(response), most)}}
    """)
    spec, file = f"{path}:score", data(rows(1))
    status, text = run_main(spec, file, texts=["right", "wrong!"], keys=["acc", "len/words"], kwargs={"most": 6})
    assert status == 0
    assert calls.read_text() == "xx"
    assert ":score, key acc" in text
    assert re.search(r"len.words +│ +5.5 ", text)
    assert check_reward(spec, rows(1), responses=["right"], key="acc").checked[0].outcome.value == 1

    status, text = run_main(spec, file, texts=["right"])
    assert status == 1
    assert "give the objective a key (--key of `ctwa check-reward`)" in text
    assert run_main(spec, file, texts=["right"], keys=["acc", "fmt"])[0] == 1
    with pytest.raises(CtwaError, match="two of acc, acc have one name; give each once"):
        main([spec], file, keys=["acc", "acc"])
    with pytest.raises(CtwaError, match="--key is of what one function returns, and several are given"):
        main([spec, f"{path}:other"], file, keys=["acc"])


def test_functions_of_one_name_are_told_apart_by_their_files(
    reward_file: RewardFile, data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("a", "b"):
        reward_file("def f(response, times): return len(response) * times", f"{place}/r.py")
    kwargs = {"a/r.py:f": {"times": 1}, "b/r.py:f": {"times": 2}}
    status, text = run_main(["a/r.py:f", "b/r.py:f"], data(rows(1)), texts=["a", "abc"], kwargs=kwargs)
    assert status == 0
    assert re.search(r"a\.r\.py:f +│ 2 +│", text)
    assert re.search(r"b\.r\.py:f +│ 4 +│", text)


def test_functions_are_loaded_together_as_in_a_run(reward_file: RewardFile, data: Callable[..., Path]) -> None:
    specs = []
    for place in ("a", "b"):
        reward_file(f"VALUE = {place!r}", f"{place}/helper.py")
        source = "import os, sys; sys.path.insert(0, os.path.dirname(__file__))\nfrom helper import VALUE\n"
        specs.append(f"{reward_file(source + 'def f(response): return VALUE == response', f'{place}/r.py')}:f")
    for each in (specs, specs[::-1]):
        with pytest.raises(CtwaError, match=r"imports 'helper' and gets \S+, as \S+ does; alone it would get"):
            main(each, data(rows(1)), texts=["a"])


def test_failures_are_shown_first_with_what_went_wrong(reward_file: RewardFile) -> None:
    path = reward_file("""
        import time
        def f(response):
            if response == "hang": time.sleep(3600)
            if response == "raise": raise ValueError("[/bold] no number")
            return float(response)
    """)
    result = check_reward(f"{path}:f", rows(4, response=["1", "hang", "raise", "nan"]), timeout=0.5)
    text = shown(result)
    for expected in (
        "timeout: no value within 0.5 s",
        "exception: ValueError: [/bold] no number (rewards.py, line 5)",
        "not_finite: returned nan; return a finite number, or None",
        "timeout 1, exception 1, not_finite 1",
    ):
        assert expected in text
    assert result.unscored_frac == 0.75
    assert math.isclose(result.checked[1].outcome.seconds, 0.5, rel_tol=0.9)


def test_the_command_reads_parquet_and_gives_an_exit_status(
    reward_file: RewardFile, data: Callable[..., Path], tmp_path: Path
) -> None:
    path = reward_file("def f(response, bonus=0): return bonus if response.strip() else None")
    file = data(rows(5, answer=["a", "b", "", "d", "e"]))
    status, text = run_main(f"{path}:f", file, responses="answer", limit=2, kwargs={"bonus": 3})
    assert status == 0
    assert "the responses are answer" in text
    assert "bonus" not in text
    assert run_main(f"{path}:f", file, responses="answer")[0] == 1

    lines = tmp_path / "responses.jsonl"
    lines.write_text("\n".join(json.dumps(x) for x in ("a", {"response": "b", "step": 1}, ["c", "d"], "e", "f")))
    status, text = run_main(f"{path}:f", file, responses=str(lines))
    assert status == 0
    assert f"the responses are {lines}" in text


def test_the_repositorys_accuracy_on_probes(data: Callable[..., Path]) -> None:
    status, _ = run_main("reward_fns/accuracy.py:accuracy", data(rows(3)))
    assert status == 0


def test_mistakes_of_the_command(reward_file: RewardFile, data: Callable[..., Path], tmp_path: Path) -> None:
    spec = reward_file("def f(response): return 1") + ":f"
    file = data(rows(2))
    with pytest.raises(CtwaError, match=r"none.parquet does not exist; give a .parquet, .jsonl"):
        main([spec], tmp_path / "none.parquet")
    with pytest.raises(
        CtwaError, match=r"rewards.py has the suffix '.py'; give a file that ends with .parquet, .jsonl"
    ):
        main([spec], Path(spec.removesuffix(":f")))
    with pytest.raises(CtwaError, match=r"responses 'x' is neither a column of .* \(prompt, data_source, .*\) nor a"):
        main([spec], file, responses="x")
    with pytest.raises(CtwaError, match="limit is 0; give the number of rows to check, at least 1"):
        main([spec], file, limit=0)
    (tmp_path / "bad.jsonl").write_text('"a"\n{"text": "b"}\n')
    with pytest.raises(CtwaError, match=r"bad.jsonl, line 2: it has no 'response'; write a JSON string, or an object"):
        main([spec], file, responses=str(tmp_path / "bad.jsonl"))
    (tmp_path / "short.jsonl").write_text('"a"\n')
    with pytest.raises(CtwaError, match="there are 1 responses for 2 rows; give one, or one list, for each row"):
        main([spec], file, responses=str(tmp_path / "short.jsonl"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, r"row 0 \(from 0\) of the data: it has no column 'prompt' \(it has question\); write rows"),
        ({"reward_model": {"ground_truth": "7"}}, r"it has no column 'prompt' \(it has reward_model\)"),
        (
            {"prompt": "What?"},
            r"it has no reward_model, which the objectives \('f'\) ask for; write {\"ground_truth\": ",
        ),
        (
            {"prompt": "What?", "reward_model": {"ground_truth": None}},
            "it has no ground truth in its reward_model, which",
        ),
        ({"prompt": "What?", "reward_model": "7"}, "its reward_model is the text '7'; write"),
    ],
)
def test_rows_of_another_format(reward_file: RewardFile, row: dict[str, Any], message: str) -> None:
    path = reward_file("def f(response, ground_truth): return 1")
    with pytest.raises(CtwaError, match=message):
        check_reward(f"{path}:f", [row])
    with pytest.raises(CtwaError, match="there is no row to check"):
        check_reward(f"{path}:f", [])


SEPARATORS = ["a\u2028b", "a\u2029b", "a\u0085b", "a\x0bb\x0c\x1c\x1d\x1e", "a\rb", "a\r\nb\n"]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["unix", "dos"])
def test_lines_of_responses_end_at_line_breaks_alone(
    reward_file: RewardFile, data: Callable[..., Path], tmp_path: Path, bom: bytes, end: bytes
) -> None:
    path = reward_file("def f(response, row):\n    return float(response == row['said'])")
    file = data(rows(len(SEPARATORS), said=SEPARATORS))
    lines = tmp_path / "responses.jsonl"
    lines.write_bytes(bom + b"".join(json.dumps(text, ensure_ascii=False).encode() + end for text in SEPARATORS))

    status, text = run_main(f"{path}:f", file, responses=str(lines))
    summary = next(line for line in text.splitlines() if "│ response" in line)
    assert (status, [cell.strip() for cell in summary.split("│")[2:5]]) == (0, ["6", "6", "1"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("null", "the response of row 1 (from 0) is None"),
        ("7", "the response of row 1 (from 0) is 7"),
        ("[]", "the response of row 1 (from 0) is []"),
        ('["a", null]', "the response of row 1 (from 0) is ['a', None]"),
        ('{"response": null}', "the response of row 1 (from 0) is None"),
        ('{"answer": "a"}', "line 2: it has no 'response'"),
        ('"half \\ud83d"', "the response of row 1 (from 0) has half a surrogate pair"),
        ("[" * 100_000, "line 2: it is not JSON"),
        ("nul", "line 2: it is not JSON"),
    ],
)
def test_a_line_that_is_no_response(
    reward_file: RewardFile, data: Callable[..., Path], tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "responses.jsonl").write_text(f'"fine"\n{line}\n')
    with pytest.raises(CtwaError) as error:
        main(["ctwa.testbed.rewards:accuracy"], data(rows(2)), responses=str(tmp_path / "responses.jsonl"))

    assert said in str(error.value)


def test_a_prompt_that_says_nothing() -> None:
    bad = rows(2)
    bad[1]["prompt"][0]["content"] = " "
    with pytest.raises(
        CtwaError, match=r"row 1 \(from 0\) of the data: message 0 of its prompt is a user's and empty; write what"
    ):
        check_reward("ctwa.testbed.rewards:accuracy", bad)


def test_lengths_are_counted_by_the_tokenizer_that_is_named(reward_file: RewardFile) -> None:
    path = reward_file("def f(response_tokens): return response_tokens")
    result = check_reward(f"{path}:f", rows(1), responses=["a b c"], tokenize=lambda text: [*map(ord, text), 0])
    assert result.checked[0].outcome.value == 6
    assert "counts words" not in shown(result)


def test_functions_of_a_batch_get_the_responses_of_a_row_their_tokens_and_the_moment(reward_file: RewardFile) -> None:
    path = reward_file("""
        def f(completions, completion_ids, level, progress, split, **kwargs):
            assert (level, progress, split) == ([0, 0], 0.5, "val") and len(kwargs["prompts"]) == 2
            return [len(ids) for ids in completion_ids]
        def g(completions, colour): return [0.0] * len(completions)
    """)
    of_row, options = [["a", "bcd"]], {"moment": Moment("val", 5, 0.5)}
    result = check_reward(f"{path}:f", rows(1), responses=of_row, tokenize=lambda text: [*map(ord, text), 0], **options)
    assert [item.outcome.value for item in result.checked] == [2, 4]
    with pytest.raises(CtwaError, match="asks for completion_ids, the tokens of the responses: --tokenizer"):
        check_reward(f"{path}:f", rows(1), responses=of_row, **options)
    with pytest.raises(
        CtwaError, match=r"row 0 \(from 0\) of the data: it has no column 'colour', which the objective 'g'"
    ):
        check_reward(f"{path}:g", rows(1))


def test_none_is_explained(reward_file: RewardFile) -> None:
    path = reward_file(REWARDS)
    text = shown(check_reward(f"{path}:sometimes", rows(3), responses=["a", "b", "c"]))
    assert "none 2" in text
    assert "none: not_applicable" in text
