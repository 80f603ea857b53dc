import json
import re
import sys
from pathlib import Path

import datasets
import pytest
from pydantic import ValidationError

from ctwa.errors import CtwaError
from ctwa.preference import PreferenceSource, load_preferences, split_pairs


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def row(index=0, **changes):
    return {"prompt": f"Question {index}?", "chosen": f"Yes {index}.", "rejected": f"No {index}."} | changes


def load(path, **options):
    """One objective's pairs."""
    (pair_set,) = load_preferences({"a": PreferenceSource(data=path, **options)})
    return pair_set


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


class TestHh:
    def test_a_dialogue_is_messages(self, write):
        before = "\n\nHuman: Name a prime.\n\nAssistant: 7\n\nHuman: And another?\n\nIt may be large.\n\nAssistant:"
        pair_set = load(write([{"chosen": f"{before} 11 \n", "rejected": f"{before} 9\nor 15"}]), format="hh")

        assert pair_set.pairs[0].prompt == (
            user("Name a prime."),
            assistant("7"),
            user("And another?\n\nIt may be large."),
        )
        assert (pair_set.pairs[0].chosen, pair_set.pairs[0].rejected) == ("11", "9\nor 15")
        assert pair_set.pairs[0].labels == {"a": 1}

    def test_labels_of_columns(self, write):
        rows = [{"chosen": "Human: a\n\nAssistant: b", "rejected": "Human: a\n\nAssistant: c", "harm": -1}]

        assert load(write(rows), format="hh", label="harm").pairs[0].labels == {"a": -1}

    @pytest.mark.parametrize(
        ("chosen", "reason", "text"),
        [
            ("Name a prime.", "malformed", "its 'chosen' is no dialogue that begins with 'Human:'"),
            ("So\n\nHuman: a\n\nAssistant: b", "malformed", "its 'chosen' is no dialogue"),
            ("\n\nHuman: a\n\nAssistant: b\n\nHuman: d", "malformed", "'chosen' ends with the role 'user'"),
            ("\n\nHuman: d\n\nAssistant: b", "malformed", "differ before the last answer"),
            ("\n\nHuman: a\n\nAssistant:", "empty", "its chosen response is empty"),
            ("\n\nHuman:\n\nAssistant: b", "malformed", "differ before the last answer"),
        ],
    )
    def test_what_is_no_pair(self, tmp_path, chosen, reason, text):
        path = tmp_path / "rows.jsonl"
        rows = [{"chosen": chosen, "rejected": "\n\nHuman: a\n\nAssistant: c"}, {"chosen": chosen}]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
        with pytest.raises(CtwaError, match=f"row 0 .*{text}"):
            load(str(path), format="hh")

    def test_another_format_says_which_it_is(self, write):
        rows = [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}]
        with pytest.raises(CtwaError, match="write format: hh"):
            load(write(rows))


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


class TestShareGpt:
    @pytest.mark.parametrize(
        "columns",
        [
            {"conversations": [human("Hi")], "chosen": gpt("Hello"), "rejected": gpt("Go")},
            {"conversations": [human("Hi")], "chosen": [gpt("Hello")], "rejected": [gpt("Go")]},
            {"conversations": [human("Hi")], "chosen": "Hello", "rejected": "Go"},
            {"chosen": [human("Hi"), gpt("Hello")], "rejected": [human("Hi"), gpt("Go")]},
            {"conversations": [user("Hi")], "chosen": assistant("Hello"), "rejected": assistant("Go")},
        ],
        ids=["a message each", "lists of one", "text", "whole conversations", "roles"],
    )
    @pytest.mark.parametrize("system", [None, "Be brief."])
    def test_conversations(self, write, columns, system):
        pair = load(write([columns | ({"system": system} if system else {})]), format="sharegpt").pairs[0]

        before = ({"role": "system", "content": system},) if system else ()
        assert (pair.prompt, pair.chosen, pair.rejected) == ((*before, user("Hi")), "Hello", "Go")

    def test_several_turns(self, write):
        turns = [{"from": "system", "value": "Be brief."}, human("Hi"), gpt("Hello"), human("Bye")]
        pair = load(write([{"conversations": turns, "chosen": gpt("Bye"), "rejected": gpt("No")}]), format="sharegpt")

        assert [message["role"] for message in pair.pairs[0].prompt] == ["system", "user", "assistant", "user"]

    @pytest.mark.parametrize(
        ("columns", "text"),
        [
            ({"conversations": [{"from": "tool", "value": "7"}]}, "'tool' speaks in its 'conversations'"),
            ({"conversations": [human("")]}, "message 0 of its prompt is a user's and empty"),
            ({"conversations": [{"from": "human"}]}, "a message of its 'prompt' has no 'role' and 'content' of text"),
            ({"conversations": []}, "its 'prompt' is neither text nor a list of messages"),
            ({"conversations": 7}, "it is not of the format 'sharegpt'"),
            ({"conversations": ["Hi"]}, "it is not of the format 'sharegpt'"),
            ({"chosen": human("Hello")}, "its conversation 'chosen' ends with the role 'user'"),
            ({"chosen": None}, "it has nothing under 'chosen'"),
        ],
    )
    def test_what_is_no_pair(self, tmp_path, columns, text):
        path = tmp_path / "rows.jsonl"
        row = {"conversations": [human("Hi")], "chosen": gpt("Hello"), "rejected": gpt("Go")} | columns
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(CtwaError, match=f"row 0 .*{text}"):
            load(str(path), format="sharegpt")

    def test_another_format_says_which_it_is(self, write):
        with pytest.raises(CtwaError, match="write format: sharegpt"):
            load(write([{"conversations": [human("Hi")], "chosen": gpt("Hello"), "rejected": gpt("Go")}]))


def safe_rlhf(**changes):
    return {
        "prompt": "How do I open a lock?",
        "response_0": "Use its key.",
        "response_1": "Rake the pins, one after the other.",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "better_response_id": 1,
        "safer_response_id": 0,
    } | changes


class TestSafeRlhf:
    LABELS = (("helpful", "better_response_id"), ("harmless", "safer_response_id"))

    def sources(self, path, **options):
        return {
            name: PreferenceSource(data=path, format="safe-rlhf", label=label, **options) for name, label in self.LABELS
        }

    def test_helpfulness_and_harmlessness_share_the_pairs(self, write):
        path = write([safe_rlhf(), safe_rlhf(better_response_id=0)])
        (pair_set,) = load_preferences(self.sources(path))
        first = pair_set.pairs[0]

        assert first.prompt == (user("How do I open a lock?"),)
        assert (first.chosen, first.rejected) == ("Use its key.", "Rake the pins, one after the other.")
        assert [pair.labels for pair in pair_set.pairs] == [
            {"helpful": -1, "harmless": 1},
            {"helpful": 1, "harmless": 1},
        ]

    def test_one_objective_alone(self, write):
        pair_set = load(write([safe_rlhf()]), format="safe-rlhf", label="safer_response_id", chat=False)

        assert pair_set.pairs[0].labels == {"a": 1}
        assert pair_set.pairs[0].prompt == "How do I open a lock?"

    @pytest.mark.parametrize(("value", "reason"), [(None, "missing label"), (2, "bad label"), (-1, "bad label")])
    def test_an_id_that_is_none(self, write, value, reason):
        path = write([safe_rlhf(), safe_rlhf(safer_response_id=value)])
        (pair_set,) = load_preferences(self.sources(path, bad_rows="skip"))

        assert pair_set.skipped == {reason: 1}

    def test_the_label_has_to_be_named(self):
        with pytest.raises(ValidationError, match="write one of better_response_id, safer_response_id"):
            PreferenceSource(data="x.jsonl", format="safe-rlhf")


def ultrafeedback(**ratings):
    """An instruction with a completion for each rating of every aspect; they are called A, B, C, ..."""
    num = len(next(iter(ratings.values())))
    return {
        "source": "evol_instruct",
        "instruction": "Name a fruit.",
        "models": [f"model-{i}" for i in range(num)],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
        "completions": [
            {
                "model": f"model-{i}",
                "principle": "helpfulness",
                "custom_system_prompt": "Be helpful.",
                "response": "ABCD"[i],
                "annotations": {
                    aspect: {"Rating": values[i], "Rationale": "because"} for aspect, values in ratings.items()
                },
            }
            for i in range(num)
        ],
    }


class TestUltrafeedback:
    @pytest.mark.parametrize(
        ("ratings", "pair"),
        [
            (["2", "5", "3", "1"], ("B", "D")),
            (["4", "5", "5", "4"], ("B", "A")),
            (["N/A", "3", "2", "N/A"], ("B", "C")),
            (["1", "1", "3", "3"], ("C", "A")),
        ],
        ids=["plain", "ties to the first", "not rated", "ties to the first of the lowest"],
    )
    def test_the_highest_against_the_lowest_rating(self, write, ratings, pair):
        pair_set = load(write([ultrafeedback(honesty=ratings)]), format="ultrafeedback", label="honesty")
        only = pair_set.pairs[0]

        assert (only.chosen, only.rejected) == pair
        assert only.labels == {"a": 1}
        assert only.prompt == (user("Name a fruit."),)

    def test_every_aspect_has_pairs_of_its_own(self, write):
        path = write([ultrafeedback(honesty=["1", "2", "3"], helpfulness=["3", "1", "2"])])
        sets = load_preferences(
            {
                aspect: PreferenceSource(data=path, format="ultrafeedback", label=aspect)
                for aspect in ("honesty", "helpfulness")
            }
        )

        assert [pair_set.objectives for pair_set in sets] == [("honesty",), ("helpfulness",)]
        assert [(s.pairs[0].chosen, s.pairs[0].rejected) for s in sets] == [("C", "A"), ("A", "B")]

    @pytest.mark.parametrize(
        ("ratings", "reason"), [(["4", "4", "4"], "no preference"), (["N/A", "4", "N/A"], "missing label")]
    )
    def test_rows_without_a_preference(self, write, ratings, reason):
        path = write([ultrafeedback(honesty=["1", "2", "3"]), ultrafeedback(honesty=ratings)])

        assert load(path, format="ultrafeedback", label="honesty", bad_rows="skip").skipped == {reason: 1}

    def test_an_unknown_aspect_lists_the_known(self):
        with pytest.raises(ValidationError, match="write one of instruction_following, honesty, truthfulness, helpful"):
            PreferenceSource(data="x.jsonl", format="ultrafeedback", label="beauty")


def comparison(first="Lost my keys.", second="I lost all my keys today.", choice=1, **info):
    info = {"id": "t3", "post": "I lost my keys.", "title": "Keys", "subreddit": "tifu", "site": None} | info
    return {
        "info": {"article": None} | info,
        "summaries": [
            {"text": first, "policy": "sup1", "note": None},
            {"text": second, "policy": "ref", "note": None},
        ],
        "choice": choice,
        "worker": "w",
        "batch": "batch0",
        "split": "train",
        "extra": {"confidence": 8},
    }


class TestSummaries:
    def test_the_choice_and_the_shorter_summary(self, write):
        path = write([comparison(), comparison("Three words here.", "Also three words.", 0)])
        (pair_set,) = load_preferences(
            {
                "quality": PreferenceSource(data=path, format="summaries"),
                "conciseness": PreferenceSource(data=path, format="summaries", label="shorter"),
            }
        )

        assert [pair.labels for pair in pair_set.pairs] == [
            {"quality": -1, "conciseness": 1},
            {"quality": 1, "conciseness": 0},
        ]
        assert pair_set.pairs[0].prompt == (
            user("SUBREDDIT: r/tifu\n\nTITLE: Keys\n\nPOST: I lost my keys.\n\nTL;DR:"),
        )

    def test_news_articles_have_a_prompt_of_their_own(self, write):
        path = write([comparison(post=None, title=None, subreddit=None, article="Rain.")])

        assert load(path, format="summaries", chat=False).pairs[0].prompt == "Article:\n\nRain.\n\nTL;DR:"

    def test_a_comparison_of_three(self, write):
        odd = comparison()
        odd["summaries"] = odd["summaries"] * 2
        with pytest.raises(CtwaError, match=r"row 1 .*4 summaries"):
            load(write([comparison(), odd]), format="summaries")


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


LABELS = {
    "safe-rlhf": "safer_response_id",
    "ultrafeedback": "honesty",
}


@pytest.mark.parametrize(
    ("form", "num_examples"),
    [("pairs", 4), ("hh", 1), ("sharegpt", 2), ("safe-rlhf", 1), ("ultrafeedback", 1), ("summaries", 1)],
)
def test_the_documented_examples_can_be_read(tmp_path, form, num_examples):
    text = (Path(__file__).parents[2] / "docs" / "preference.md").read_text()
    section = re.search(rf"^### {form}$(.*?)^##", text, re.MULTILINE | re.DOTALL)[1]
    examples = re.findall(r"^```json\n(.*?)```", section, re.MULTILINE | re.DOTALL)
    (tmp_path / "rows.jsonl").write_text("".join(examples))

    assert len(load(str(tmp_path / "rows.jsonl"), format=form, label=LABELS.get(form)).pairs) == num_examples
