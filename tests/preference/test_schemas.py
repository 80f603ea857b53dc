"""The formats that others publish preference data in."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from ctwa.errors import CtwaError
from ctwa.preference import PreferenceSource, load_preferences
from tests.preference.rows import assistant, gpt, human, load, safe_rlhf, user


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
            ({"conversations": 7}, "its 'conversations' is the number 7; write a list of turns"),
            ({"conversations": "Hi"}, "its 'conversations' is the text 'Hi'; write a list of turns"),
            ({"conversations": ["Hi"]}, "its 'conversations' is the list .*; write a list of turns"),
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

    @pytest.mark.parametrize("missing", ["subreddit", "title"])
    def test_a_post_without_what_its_prompt_says(self, write, missing):
        with pytest.raises(CtwaError, match=f"row 1 .* nothing under '{missing}'"):
            load(write([comparison(), comparison(**{missing: None})]), format="summaries")

    def test_a_comparison_of_three(self, write):
        odd = comparison()
        odd["summaries"] = odd["summaries"] * 2
        with pytest.raises(CtwaError, match=r"row 1 .*4 summaries"):
            load(write([comparison(), odd]), format="summaries")


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
