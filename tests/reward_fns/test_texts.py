"""Rewards of a response's form: what keeps to it, and what only looks as if it did."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest

from ctwa.objectives.loading import load_function
from tests.conftest import ROOT

Reward = Callable[[str], Callable[..., Any]]

ENGLISH = "The river runs through the old town, and children swim in it all summer. "
GERMAN = "Der Fluss läuft durch die alte Stadt, und im Sommer schwimmen die Kinder darin. "
CHINESE = "这条河流经老城区，孩子们整个夏天都在里面游泳，水很清澈，鱼也很多。"
PROSE = (
    "A bee that has found a good meadow returns to the hive and dances. Its sisters read the angle of the dance "
    "against the sun, and the length of each run as a distance. Then they fly out on their own."
)


class TestRepetition:
    def test_prose_repeats_nothing(self, reward_fn: Reward) -> None:
        assert reward_fn("repetition")(PROSE) == 0
        assert reward_fn("repetition")("") == reward_fn("repetition")("one two") == 0

    @pytest.mark.parametrize(
        "text",
        [
            "the same again " * 50,
            "Same! same? SAME. " * 50,
            "a" * 2000,  # one word without end
            "ha" * 500,
            "!" * 400,
            "河流" * 200,
            "s\u200bame again and " * 60,  # characters that cannot be seen make no other word
            (PROSE + " ") * 12,
        ],
    )
    def test_going_round_in_circles_costs_nearly_all(self, reward_fn: Reward, text: str) -> None:
        assert -1 <= reward_fn("repetition")(text) < -0.85

    def test_the_share_is_of_runs_that_came_before(self, reward_fn: Reward) -> None:
        # Runs of two: ab bc ca ab bc: two of five came before.
        assert reward_fn("repetition")("a b c a b c", n=2) == pytest.approx(-2 / 5)
        assert reward_fn("repetition")("a b c a b c", n=2, penalty=-0.5) == pytest.approx(-1 / 5)


class TestFormatTags:
    @pytest.mark.parametrize(
        "text",
        [
            "<think>2 + 2</think><answer>4</answer>",
            "\n<think>\nI add.\n</think>\n\n<answer>\n4\n</answer>\n",
            "<think>a < b, so <b>bold</b></think> <answer>4</answer>",
        ],
    )
    def test_the_form(self, reward_fn: Reward, text: str) -> None:
        assert reward_fn("format_tags")(text) == 1

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "<think></think><answer></answer>",
            "<think> . </think><answer>4</answer>",
            "<think>x</think><answer>4</answer> and more",
            "Well: <think>x</think><answer>4</answer>",
            "<think>x</think> so <answer>4</answer>",
            "<answer>4</answer><think>x</think>",
            "<think>x<answer>4</answer></think>",
            "<think>x</think><answer>4",
            "<think>x</think><answer>4</answer><answer>5</answer>",
            "<think>I write <answer>5</answer> then</think><answer>4</answer>",
            "<think><think>x</think></think><answer>4</answer>",
            "<THINK>x</THINK><answer>4</answer>",
            "</think>x<think></answer>4<answer>",
        ],
    )
    def test_what_only_looks_like_it(self, reward_fn: Reward, text: str) -> None:
        assert reward_fn("format_tags")(text) == 0

    def test_other_tags_and_a_prompt_that_opens_the_first(self, reward_fn: Reward) -> None:
        format_tags = reward_fn("format_tags")
        assert format_tags("<plan>a</plan><code>b</code><note>c</note>", tags=["plan", "code", "note"]) == 1
        assert format_tags("x</think><answer>4</answer>", begins_inside=True) == 1
        assert format_tags("<think>x</think><answer>4</answer>", begins_inside=True) == 0


class TestLanguage:
    def test_the_share_of_the_language(self, reward_fn: Reward) -> None:
        language = reward_fn("language")
        assert language(ENGLISH * 2) == language(GERMAN * 2, code="de") == language(CHINESE * 2, code="zh") == 1
        assert language(ENGLISH, code="de") == language(CHINESE) == 0
        assert 0.3 < language(ENGLISH + GERMAN) < 0.7

    def test_code_and_formulas_are_of_no_language(self, reward_fn: Reward) -> None:
        code = "```python\nfor each in range(10):\n    print(each, 'and so on and so forth')\n```"
        assert reward_fn("language")(GERMAN + code + " $\\text{and so on and so forth}$", code="de") == 1

    @pytest.mark.parametrize("text", ["", "ok", "12 + 30 = 42", "!?" * 100, "```\n" + ENGLISH])
    def test_what_says_too_little(self, reward_fn: Reward, text: str) -> None:
        assert reward_fn("language")(text) == 0

    def test_among_a_few_languages_short_texts_are_told(self, reward_fn: Reward) -> None:
        language = reward_fn("language")
        assert language("Das ist eine wirklich gute Idee.", code="de", among=["de", "en"]) == 1


class TestJson:
    @pytest.mark.parametrize("text", ['{"a": 1}', "[]", ' ```json\n{"a": [1, null]}\n``` ', '```{"a": 1}```'])
    def test_json(self, reward_fn: Reward, text: str) -> None:
        assert reward_fn("json_valid")(text) == 1

    @pytest.mark.parametrize(
        "text",
        [
            *("", "7", '"text"', "true", "null", "{", '{"a": 1,}', "{'a': 1}", '{"a": 1} and so on', 'Here: {"a": 1}'),
            *(
                '{"a": NaN}',
                '{"a": Infinity}',
                '{"a": 1, "a": 2}',
                "[" * 100_000,
                "[1" + "0" * 5000 + "]",
                "```json```",
            ),
        ],
    )
    def test_what_is_none(self, reward_fn: Reward, text: str) -> None:
        assert reward_fn("json_valid")(text) == 0

    def test_keys_and_a_schema(self, reward_fn: Reward) -> None:
        json_valid = reward_fn("json_valid")
        assert [json_valid(text, keys=["a"]) for text in ('{"a": 1, "b": 2}', '{"b": 2}', '["a"]')] == [1, 0, 0]
        assert [json_valid(text, keys=["a"], other_keys=False) for text in ('{"a": 1}', '{"a": 1, "b": 2}')] == [1, 0]
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        assert [json_valid(text, schema=schema) for text in ('{"n": 3}', '{"n": "3"}', "{}")] == [1, 0, 0]

    @pytest.mark.parametrize(
        ("text", "schema"),
        [
            ("[1e999]", {"items": {"multipleOf": 0.01}}),
            ("[" + "1" * 400 + "]", {"items": {"multipleOf": 0.5}}),
            ("[" * 300 + "]" * 300, {"items": {"$ref": "#"}}),
            ('{"a": ' * 40 + "0" + "}" * 40, {"not": {"properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}}}),
        ],
        ids=["infinite", "large", "deep", "without end"],
    )
    def test_what_a_schema_cannot_be_compared_with_is_no_way_out(
        self, reward_fn: Reward, text: str, schema: dict[str, Any]
    ) -> None:
        assert reward_fn("json_valid")(text, schema=schema) == 0

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            *(('[1, true, "1", null, [], {}, 0, false]', 1), ("[1, 1.0]", 0), ("[[1], [true]]", 1)),
            *(('[{"a": [1]}, {"a": [1.0]}]', 0), ('[{"a": 1, "b": 2}, {"b": 2, "a": 1}]', 0), ("[[0, 1], [1, 0]]", 1)),
        ],
    )
    def test_items_that_are_different(self, reward_fn: Reward, text: str, value: float) -> None:
        assert reward_fn("json_valid")(text, schema={"uniqueItems": True}) == value
        assert reward_fn("json_valid")(text, schema={"uniqueItems": False}) == 1

    def test_many_items_are_compared_in_time(self, reward_fn: Reward) -> None:
        items = ", ".join(f'{{"a": {number}}}' for number in range(4000))
        began = perf_counter()
        assert reward_fn("json_valid")(f"[{items}]", schema={"uniqueItems": True}) == 1
        assert perf_counter() - began < 5

    def test_references_within_a_schema_and_to_the_standards_are_fine(self) -> None:
        check_json_valid = load_function(f"{ROOT}/reward_fns/json_valid.py:check_json_valid")
        own = {"$id": "https://example.org/a", "$anchor": "top", "properties": {"$ref": {"const": "#/no"}}}
        references = ("#/$defs/n", "https://example.org/a", "#top", "https://json-schema.org/draft/2020-12/schema")
        for reference in references:
            check_json_valid(schema={**own, "$defs": {"n": {"type": "integer"}}, "items": {"$ref": reference}})
        check_json_valid(schema={"$defs": {"n": {"$id": "https://example.org/n"}}, "$ref": "https://example.org/n"})
