"""Rewards that compare an answer as a text: right ones however they are written, and what settles on nothing."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pytest

Reward = Callable[[str], Callable[..., Any]]


class TestExactMatch:
    @pytest.mark.parametrize(
        ("response", "gold", "value"),
        [
            ("The Eiffel Tower.", "eiffel tower", 1),
            ("Paris", ["London", "paris"], 1),
            ("<think>Rome</think> Paris", "Paris", 1),
            ("12", 12, 1),
            ("-12", "12", 0),
            ("1.5", "15", 0),
            ("1,500", "1500", 1),
            ("1,50", "150", 0),
            *((sign + "5", "5", 0) for sign in ("-", "–", "−", "− ", ".", "-.")),
            *((sign + "5", "-5", 1) for sign in ("–", "−", "− ", "- ", "‑")),
            *(("- 5", "5", 0), ("x = - 5", "x = -5", 1), ("x − 5", "x - 5", 1), ("2 - 5", "2 -5", 0)),
            *((text, text.replace(",", ""), 1) for text in ("$1,000", "1,000 dollars", "about 1,234,567.5 km")),
            *((text, text.replace(",", ""), 0) for text in ("1,50 dollars", "12,34", "1,2345")),
            *((".5", ".5.", 1), ("-.5", "−.5", 1), ("-.5", "-5", 0), ("see p.5", "see p 5", 1), ("a–b", "a-b", 1)),
            ("Ｐａｒｉｓ", "Paris", 1),
            ("Paris or London", "Paris", 0),
            ("", "Paris", 0),
            ("...", "!", 0),
            ("the", "a", 0),  # articles alone are no answer of each other
            ("?", "?", 1),
            ("x", None, None),
            ("x", "", None),
            ("x", [None], None),
            ("x", float("nan"), None),
            *((text, 4.0, value) for text, value in (("4", 1), ("4.0", 1), ("40", 0))),
            *(("x", gold, None) for gold in ({"answer": "x"}, b"x", [["x"]])),
        ],
    )
    def test_of_the_whole(self, reward_fn: Reward, response: str, gold: Any, value: Any) -> None:
        assert reward_fn("exact_match")(response, gold) == value

    @pytest.mark.parametrize(
        ("place", "response", "value"),
        [
            ("tags", "so <answer> 7 </answer>", 1),
            ("tags", "<answer>7</answer><answer>7</answer>", 0),
            ("tags", "7", 0),
            ("boxed", r"\boxed{8} no: \boxed{7}", 1),
            ("hashes", "3 + 4\n#### 7", 1),
            ("last_line", "8\n7", 1),
            ("last_line", "7\n8", 0),
            ("last_number", "it is 7 of course", 1),
            ("last_number", "7, no, 8", 0),
            ("last_number", "x = −7", 0),
        ],
    )
    def test_at_a_place(self, reward_fn: Reward, place: str, response: str, value: float) -> None:
        assert reward_fn("exact_match")(response, "7", place=place) == value

    @pytest.mark.parametrize("normalise", [True, False])
    @pytest.mark.parametrize(
        ("place", "around", "answers"),
        [
            ("whole", "{}", ("x<4", "1,000", "-.5", "the", "a <b>c</b>", "C++", "3:30")),
            ("tags", "so <answer>{}</answer>", ("x<4", "1,000", "a <b>c</b>")),
            ("boxed", r"so \boxed{{{}}}", ("x<4", "1,000")),
            ("hashes", "so\n#### {}", ("x<4", "1,000", "-1,000.50", "a, b")),
            ("last_line", "so\n{}", ("x<4", "1,000")),
            ("last_number", "so {} of them", ("1,000", "-1,000.50", "-.5", "1000", "-3")),
        ],
    )
    def test_what_is_written_as_the_ground_truth_is_right(
        self, reward_fn: Reward, place: str, around: str, answers: tuple[str, ...], normalise: bool
    ) -> None:
        exact_match = reward_fn("exact_match")
        for answer in answers:
            assert exact_match(around.format(answer), answer, place=place, normalise=normalise) == 1, answer

    def test_letter_for_letter(self, reward_fn: Reward) -> None:
        exact_match = reward_fn("exact_match")
        assert [exact_match(text, "Paris ", normalise=False) for text in ("Paris", "paris", "Paris.")] == [1, 0, 0]
        with pytest.raises(ValueError, match="'boxes' is no place of an answer"):
            exact_match("x", "x", place="boxes")


class TestMultipleChoice:
    @pytest.mark.parametrize(
        "response",
        [
            *("B", "(B)", "b", "**B**", "B.", "B) a dog", r"so \boxed{B}", r"\boxed{\text{(B)}}", "<answer>B</answer>"),
            *("<answer>(B) a dog</answer>", "The answer is B.", "The correct answer is **(B)**", "Answer: B"),
            *("It is not A, for dogs bark.\nSo the answer is B.", "<think>A? The answer is A.</think>B"),
            "A has four legs, C has none.\n\nFinal answer: B",
            *(r"\boxed{B. a dog}", r"\boxed{(B) a dog}", r"\boxed{\mathbf{B}}", r"\boxed{\textbf{(B)}}", "Answer: $B$"),
            *("<answer>**B**</answer>", "<answer>B - a dog</answer>", "the answer is b because it barks"),
            *(r"\boxed{(B) \frac{1}{2}}", r"\boxed{B. \frac{1}{2}}", r"\fbox{B}", r"\boxed{\textbf{(B)}\ 5}"),
            *("<answer>B. x<3</answer>", r"The answer is \(B\).", "$B$", r"\(B\)", "B - a dog", "B. A dog barks."),
            *("答案：B", "答案是B。", "the answer is B because A is wrong", r"\boxed{(B) vitamin C}", "B. Vitamin C"),
            *(r"\boxed{A} no, \boxed{B}", r"\boxed{A} \boxed{B}", "The answer is B, not C."),
        ],
    )
    def test_the_letter_however_it_is_named(self, reward_fn: Reward, response: str) -> None:
        assert reward_fn("multiple_choice")(response, "B") == 1

    @pytest.mark.parametrize(
        "response",
        [
            *("", "A", "A B C D", "A or B", "B or C", "A, B", r"\boxed{AB}", r"\boxed{B}, \boxed{C}", "Beethoven"),
            *(
                "The answer is A or B.",
                "The answer is B or C.",
                "The answer is not B.",
                "either A or B",
                "a dog",
                "A/B",
            ),
            *(
                "The answer is B.\nNo, the answer is C.",
                "<answer>A</answer> <answer>B</answer>",
                "B is a letter of ABC",
            ),
            *("B. C. D.", "(B)(C)", r"\boxed{(B) or (C)}", r"\boxed{\text{(B)} \text{ or } \text{(C)}}", "B) x C) y"),
            *(
                "(B) x (C) y",
                "The answer is B. x, C. y",
                "The answer is B+C",
                "<answer>B. and C.</answer>",
                r"\boxed{D. A}",
            ),
            *(r"\boxed{B_1}", r"\boxed{B*x}", "<answer>B or C</answer>"),
            *("B.C. is early", "B-level", "<answer>B</answer> <answer>C</answer>", r"\boxed{B} \boxed{C", "B and A"),
        ],
    )
    def test_what_settles_on_another_or_on_none(self, reward_fn: Reward, response: str) -> None:
        assert reward_fn("multiple_choice")(response, "B") == 0

    @pytest.mark.parametrize(
        "place", ["{}", r"so \boxed{{{}}}", r"\boxed{{\text{{{}}}}}", "<answer>{}</answer>", "Answer: {}"]
    )
    @pytest.mark.parametrize("mark", ["D. ", "D) ", "(D) ", "D: ", "D：", "(D)", "**D.** ", "D – "])
    def test_letters_in_the_text_of_the_choice_are_text(self, reward_fn: Reward, place: str, mark: str) -> None:
        for text in (
            *("Both A and B", "Both (A) and (B)", "A and C only", "A, B or C", "A or B", "A", "I and II only", "Paris"),
            *("E = mc^2", r"A = \pi r^2", "H^+", "E. coli", "C. S. Lewis", "A dog"),
        ):
            assert reward_fn("multiple_choice")(place.format(mark + text), "D") == 1, text

    @pytest.mark.parametrize("formula", ["A+B", "(A, B)", "F = E", "A_1", r"\vec{A}", "AB", "5"])
    def test_a_box_that_names_no_letter_is_passed_over(self, reward_fn: Reward, formula: str) -> None:
        assert reward_fn("multiple_choice")(rf"So $\boxed{{{formula}}}$." + "\nThe answer is (C)", "C") == 1

    @pytest.mark.parametrize(
        "closed", [r"\boxed{\text{B }}", r"\boxed{( B )}", "<answer>B .</answer>", "B。", "B : a dog"]
    )
    def test_space_before_what_closes(self, reward_fn: Reward, closed: str) -> None:
        assert reward_fn("multiple_choice")(closed, "B") == 1

    @pytest.mark.parametrize(
        "response",
        ["The answer is a matter of taste.", "The best option is a bit unclear.", "<answer>A dog</answer>", "a.m."],
    )
    def test_a_word_is_no_letter(self, reward_fn: Reward, response: str) -> None:
        assert reward_fn("multiple_choice")(response, "A") == 0
        assert reward_fn("multiple_choice")("The answer is a.", "a", choices="abcd") == 1

    @pytest.mark.parametrize(
        "text",
        [
            *("answer" + " " * 100_000 + "9", "<answer>" + "(" * 100_000, "\\boxed{ " * 20_000),
            *("answer B " * 20_000, "answer B" + ", " * 50_000, "B) " + "x B. " * 20_000, "B" + "*_$" * 30_000 + "x"),
        ],
    )
    def test_a_long_gap_is_read_in_time(self, reward_fn: Reward, text: str) -> None:
        began = perf_counter()
        assert reward_fn("multiple_choice")(text, "A") == 0
        assert perf_counter() - began < 5

    def test_the_ground_truth_is_a_letter_or_its_number(self, reward_fn: Reward) -> None:
        multiple_choice = reward_fn("multiple_choice")
        assert [multiple_choice("B", gold) for gold in ("b", "(B)", 1, np.int64(1), 0, "A.")] == [1, 1, 1, 1, 0, 0]
        assert [multiple_choice("B", gold) for gold in (None, "a dog", "", "1", True, 99, "Z")] == [None] * 7

    @pytest.mark.parametrize("choices", ["ABCDEFGHIJ", "АБВГ", "wxyz"])
    def test_every_choice_can_be_named(self, reward_fn: Reward, choices: str) -> None:
        for letter in choices:
            for form in ("{}", "({})", "{}. x", "The answer is {}.", r"\boxed{{{}}}", "<answer>{}</answer>"):
                assert reward_fn("multiple_choice")(form.format(letter), letter, choices=choices) == 1, (form, letter)
