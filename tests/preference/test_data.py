"""Preference data of any file: pairs, bad rows, several objectives and held-out shares."""

import json
import sys

import datasets
import pytest
from pydantic import ValidationError

from ctwa.errors import CtwaError
from ctwa.preference import PreferenceSource, load_preferences, split_pairs
from tests.preference.rows import assistant, load, row, user


class TestForms:
    def test_text_prefers_chosen_where_no_label_is_named(self, write):
        pair_set = load(write([row(0), row(1)]))

        assert [(p.prompt, p.chosen, p.rejected, p.labels, p.row) for p in pair_set.pairs] == [
            ("Question 0?", "Yes 0.", "No 0.", {"a": 1}, 0),
            ("Question 1?", "Yes 1.", "No 1.", {"a": 1}, 1),
        ]
        assert pair_set.objectives == ("a",)
        assert pair_set.skipped == {}

    def test_text_becomes_a_chat_when_asked(self, write):
        assert load(write([row()]), chat=True).pairs[0].prompt == (user("Question 0?"),)

    @pytest.mark.parametrize(
        "columns",
        [
            {"prompt": [user("Hi")], "chosen": [assistant("Hello")], "rejected": [assistant("Go")]},
            {"prompt": "Hi", "chosen": [assistant("Hello")], "rejected": [assistant("Go")]},
            {"prompt": [user("Hi")], "chosen": "Hello", "rejected": "Go"},
            {"chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("Go")]},
            {"prompt": "Hi", "chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("Go")]},
        ],
        ids=["messages", "text prompt", "text responses", "implicit prompt", "prompt repeated"],
    )
    def test_messages(self, write, columns):
        pair = load(write([columns])).pairs[0]

        assert (pair.prompt, pair.chosen, pair.rejected) == ((user("Hi"),), "Hello", "Go")

    def test_several_turns_are_the_prompt(self, write):
        before = [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello"), user("Bye")]
        pair = load(write([{"chosen": [*before, assistant("Bye")], "rejected": [*before, assistant("No")]}])).pairs[0]

        assert list(pair.prompt) == before
        assert pair.chosen == "Bye"

    def test_objectives_of_one_data_set_share_its_pairs(self, write):
        path = write([row(0, labels={"help": 1, "harm": -1}), row(1, labels={"help": 0, "harm": 1})])
        (pair_set,) = load_preferences(
            {name: PreferenceSource(data=path, label=f"labels.{name}") for name in ("help", "harm")}
        )

        assert pair_set.objectives == ("help", "harm")
        assert [pair.labels for pair in pair_set.pairs] == [{"help": 1, "harm": -1}, {"help": 0, "harm": 1}]

    def test_objectives_may_name_columns_of_their_own(self, write):
        path = write([row(0, quality=1.0, brevity=-1.0)])
        (pair_set,) = load_preferences(
            {name: PreferenceSource(data=path, label=name) for name in ("quality", "brevity")}
        )

        assert pair_set.pairs[0].labels == {"quality": 1, "brevity": -1}

    def test_a_data_set_an_objective(self, tmp_path):
        for name in ("help", "harm"):
            (tmp_path / f"{name}.jsonl").write_text(json.dumps(row(prompt=name)) + "\n")
        sets = load_preferences(
            {name: PreferenceSource(data=str(tmp_path / f"{name}.jsonl")) for name in ("help", "harm")}
        )

        assert [pair_set.objectives for pair_set in sets] == [("help",), ("harm",)]
        assert [pair_set.pairs[0].labels for pair_set in sets] == [{"help": 1}, {"harm": 1}]

    def test_two_objectives_with_the_same_preferences_are_refused(self, write):
        path = write([row()])
        with pytest.raises(CtwaError, match=r"'a' and 'b' have the same preferences \(.*, label none\).*of its own"):
            load_preferences({name: PreferenceSource(data=path) for name in "ab"})


BAD_ROWS = {
    "no prompt": ({"prompt": None}, "malformed", "it has no 'prompt'"),
    "empty prompt": ({"prompt": " \n"}, "empty", "its prompt is empty"),
    "no response": ({"chosen": None}, "malformed", "it has nothing under 'chosen'"),
    "empty response": ({"rejected": " "}, "empty", "its rejected response is empty"),
    "identical": ({"chosen": "No 1."}, "identical", "its two responses are the same"),
    "no label": ({"label": None}, "missing label", "it has no label under 'label'"),
    "bad label": ({"label": 2}, "bad label", "its label under 'label' is 2 where"),
}


class TestBadRows:
    @pytest.mark.parametrize(("changes", "reason", "text"), BAD_ROWS.values(), ids=BAD_ROWS)
    def test_a_bad_row_stops_with_its_file_and_index(self, write, changes, reason, text):
        path = write([row(0, label=1), row(1, label=1) | changes, row(2, label=1)])
        with pytest.raises(CtwaError) as caught:
            load(path, label="label")

        assert str(caught.value).startswith(f"{path}, row 1 (from 0): {text}")
        assert str(caught.value).endswith("mend or delete that row, or set bad_rows: skip")

    @pytest.mark.parametrize(("changes", "reason", "text"), BAD_ROWS.values(), ids=BAD_ROWS)
    def test_a_bad_row_is_skipped_and_counted(self, write, changes, reason, text):
        path = write([row(0, label=1), row(1, label=1) | changes, row(2, label=1)])
        pair_set = load(path, label="label", bad_rows="skip")

        assert [pair.row for pair in pair_set.pairs] == [0, 2]
        assert pair_set.skipped == {reason: 1}

    @pytest.mark.parametrize(
        ("columns", "text"),
        [
            ({"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]}, "conversations differ"),
            ({"chosen": [user("a")], "rejected": [user("b")]}, "ends with the role 'user'"),
            ({"chosen": [], "rejected": []}, "neither text nor a list of messages"),
            ({"chosen": [{"role": "assistant", "content": None}], "rejected": [assistant("b")]}, "no 'role' and"),
            ({"chosen": [assistant("b")], "rejected": "c"}, "one of its responses is text"),
            ({"prompt": [user("")], "chosen": "b", "rejected": "c"}, "message 0 of its prompt is a user's and empty"),
            (
                {"prompt": [user("a"), assistant("b"), user(" \n")], "chosen": "b", "rejected": "c"},
                "message 2 of its prompt is a user's and empty",
            ),
            (
                {"prompt": None, "chosen": [user(""), assistant("b")], "rejected": [user(""), assistant("c")]},
                "message 0 of its prompt is a user's and empty",
            ),
            (
                {"prompt": "caf\ud83d", "chosen": "b", "rejected": "c"},
                "of its prompt has half a surrogate pair",
            ),
            ({"prompt": "a", "chosen": "b\udc00", "rejected": "c"}, "half a surrogate pair .* in its chosen response"),
            ({"prompt": "a", "chosen": "b", "rejected": "\ud83d!"}, "half a surrogate pair .* in its rejected resp"),
            (
                {"prompt": "x", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
                "not what stands before",
            ),
        ],
    )
    def test_conversations_that_are_no_pair(self, tmp_path, columns, text):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps({"prompt": "x"} | columns) + "\n")
        with pytest.raises(CtwaError, match=f"row 0 .*{text}"):
            load(str(path))

    @pytest.mark.parametrize(
        ("form", "label", "row"),
        [
            ("safe-rlhf", "better_response_id", {"prompt": 5, "response_0": "a", "response_1": "b"}),
            ("ultrafeedback", "honesty", {"instruction": "a", "completions": 5}),
            ("ultrafeedback", "honesty", {"instruction": "a", "completions": ["b", "c"]}),
            ("summaries", None, {"info": "a", "summaries": [{"text": "b"}, {"text": "c"}], "choice": 0}),
            ("summaries", "shorter", {"info": {"article": "a"}, "summaries": [{"text": 1}, {"text": 2}]}),
            ("summaries", None, {"info": {"post": "a"}, "summaries": [{"text": "b"}, {"text": "c"}], "choice": 0}),
            ("summaries", None, {"info": {"post": "a"}, "summaries": 7}),
        ],
    )
    def test_values_of_other_types_than_the_format_has(self, tmp_path, form, label, row):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(CtwaError, match=r"row 0 .*mend or delete that row"):
            load(str(path), format=form, label=label)

    def test_no_usable_row_at_all(self, write):
        with pytest.raises(CtwaError, match=r"no usable pair \(\{'identical': 2\}\)"):
            load(write([row(chosen="x", rejected="x")] * 2), bad_rows="skip")

    def test_text_where_the_file_has_messages(self, write):
        with pytest.raises(CtwaError, match="says chat: false; leave chat out"):
            load(write([{"prompt": [user("Hi")], "chosen": "Hello", "rejected": "Go"}]), chat=False)


class TestFiles:
    @pytest.mark.parametrize("name", ["rows.txt", "missing.parquet", "missing.jsonl", "a/b/c", "folder"])
    def test_what_is_no_file(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "rows.txt").write_text("prompt,chosen,rejected\n")
        (tmp_path / "folder").mkdir()
        with pytest.raises(CtwaError, match=f"^{name} (has the suffix|does not exist|is a folder).*; give a .*parquet"):
            load(name)

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("b.jsonl", b"%s\n\n{", r"b\.jsonl, row 1 \(from 0\): it is not JSON \(.*line 3 of the file\); write"),
            ("c.jsonl", b"%s\n[1]\n", r"c\.jsonl, row 1 \(from 0\): it is the list \[1\]; write an object"),
            ("d.jsonl", b'%s\n{"prompt": "caf\xe9"}\n', r"d\.jsonl, row 1 \(from 0\): it is not JSON \('utf-8' codec"),
        ],
    )
    def test_lines_that_are_no_rows(self, tmp_path, name, content, text):
        (tmp_path / name).write_bytes(content.replace(b"%s", json.dumps(row()).encode()))

        with pytest.raises(CtwaError, match=text):
            load(str(tmp_path / name))
        assert load(str(tmp_path / name), bad_rows="skip").skipped == {"unreadable": 1}

    def test_a_file_that_is_no_parquet(self, tmp_path):
        (tmp_path / "a.parquet").write_text("not parquet")
        with pytest.raises(CtwaError, match=r"a\.parquet is not a parquet file"):
            load(str(tmp_path / "a.parquet"))

    def test_the_same_pairs_in_every_kind_of_file(self, tmp_path, write):
        rows = [row(i, label=(-1) ** i) for i in range(4)]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        lines = [["prompt", "chosen", "rejected", "label"], *([str(each) for each in row.values()] for row in rows)]
        (tmp_path / "a.csv").write_text("".join(",".join(line) + "\n" for line in lines))
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "folder")
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "splits")
        pairs = load(write(rows), label="label").pairs

        assert [pair.labels["a"] for pair in pairs] == [1, -1, 1, -1]
        for name in ("a.json", "a.csv", "folder", "splits", "splits:train"):
            assert load(str(tmp_path / name), label="label").pairs == pairs

    def test_columns_of_other_names(self, write):
        path = write([{"question": "Question 0?", "answers": {"good": "Yes 0.", "bad": "No 0."}}])
        columns = {"prompt": "question", "chosen": "answers.good", "rejected": "answers.bad"}

        assert load(path, columns=columns).pairs == load(write([row(0)])).pairs
        with pytest.raises(CtwaError, match=r"it has nothing in the column 'worse' \(it has question\)"):
            load(write([{"question": "Question 0?"}]), columns={"rejected": "worse"})
        with pytest.raises(CtwaError, match=r"it has nothing under 'chosen' \(it has question, answers\)"):
            load(write([{"question": "Question 0?", "answers": "a"}]))
        with pytest.raises(ValidationError, match="chosn"):
            PreferenceSource(data="a.jsonl", columns={"chosn": "better"})

    def test_a_name_on_the_hub(self, monkeypatch):
        asked = []

        def load_dataset(*args, **kwargs):
            asked.append((args, kwargs))
            return datasets.Dataset.from_list([row()])

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        pair_set = load("owner/name", subset="comparisons", split="validation")

        assert asked == [(("owner/name", "comparisons"), {"split": "validation", "revision": None})]
        assert len(pair_set.pairs) == 1

    def test_the_hub_without_datasets(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(
            CtwaError, match="hf://owner/name:train is read by the package 'datasets', which is not inst"
        ):
            load("owner/name")


SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


class TestSplit:
    def test_no_prompt_is_in_two_parts(self, write):
        pair_set = load(write([row(i // 2, chosen=f"Yes {i}.") for i in range(400)]))
        parts = split_pairs(pair_set, SHARES)
        prompts = [{pair.prompt for pair in part.pairs} for part in parts.values()]

        assert sum(len(part.pairs) for part in parts.values()) == 400
        assert sum(map(len, prompts)) == len(set().union(*prompts)) == 200
        assert 280 < len(parts["train"].pairs) < 360

    def test_the_split_depends_on_prompt_and_seed_alone(self, write):
        pair_set = load(write([row(i) for i in range(100)]))
        part = split_pairs(pair_set, SHARES)["train"]
        fewer = load(write([row(i) for i in reversed(range(50))]))
        again = split_pairs(fewer, SHARES)["train"]

        assert {p.prompt for p in again.pairs} == {p.prompt for p in part.pairs} & {p.prompt for p in fewer.pairs}
        assert split_pairs(pair_set, SHARES) == split_pairs(pair_set, SHARES)
        assert split_pairs(pair_set, SHARES, seed=1) != split_pairs(pair_set, SHARES)

    def test_shares_that_are_none(self, write):
        pair_set = load(write([row(0), row(1)]))
        with pytest.raises(CtwaError, match="must be 0 or more and sum to 1"):
            split_pairs(pair_set, {"train": 0.8, "validation": 0.1})
        with pytest.raises(CtwaError, match="2 pairs are too few to split"):
            split_pairs(pair_set, SHARES)
        assert not split_pairs(pair_set, {"train": 1.0, "test": 0.0})["test"].pairs
