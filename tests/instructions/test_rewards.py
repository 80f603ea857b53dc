"""The objectives, on answers that try to have them for nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctwa.instructions.constraints import KEYWORDS, Avoid, Bullets, Keyword, LowerCase, Sentences, to_json
from ctwa.instructions.rewards import brevity, constraints, repeats, well_formed
from ctwa.instructions.text import shown

PROMPT = 'Tell me about the wide blue ocean. Use the word "water". Write exactly two sentences.'
TRUTH = to_json([Keyword(word="water"), Sentences(num=2)])
ANSWER = "The ocean is full of salty water. Whales and small fish live in it."


def all_three(response: str, *, truth: str = TRUTH) -> tuple[float, float, float]:
    tokens = len(response.split()) + 1
    return (
        constraints(response, PROMPT, truth),
        brevity(response, PROMPT, response_tokens=tokens, budget=100),
        well_formed(response, PROMPT, finished=True),
    )


@given(
    st.lists(st.sampled_from(["e", "\u0301", "\u0327", "ﬁ", "Ａ", "¨", " ", "\n", "\u3000", "\u200b", "가", "\u11a8"]))
)
def test_what_is_shown_is_normalised_as_a_whole(characters: list[str]) -> None:
    text = "".join(characters)
    assert shown(text) == unicodedata.normalize("NFKC", text).replace("\u200b", "")


def test_a_good_answer_has_all_three() -> None:
    assert all_three(ANSWER) == (1.0, pytest.approx(0.85), 1.0)


def test_constraints_are_counted() -> None:
    assert constraints(ANSWER.replace("water", "soup"), PROMPT, TRUTH) == 0.5
    assert constraints("Salty soup is what the ocean is made of.", PROMPT, TRUTH) == 0.0


@pytest.mark.parametrize("response", ["", " \n", ".", "ok", "No.", "water water water water", "- a\n- b", "{}"])
def test_what_says_nothing_has_nothing(response: str) -> None:
    forbidding = to_json([Avoid(word="and"), LowerCase()])

    assert all_three(response) == (0.0, 0.0, 0.0)
    assert all_three(response, truth=forbidding) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("response", [PROMPT, PROMPT.lower(), f"{PROMPT} {PROMPT}", f"Sure! {PROMPT}"])
def test_the_prompt_again_is_no_answer(response: str) -> None:
    assert all_three(response) == (0.0, 0.0, 0.0)


def test_stuffing_every_keyword_is_not_well_formed() -> None:
    """A list of all words holds the keyword, once; it ends nowhere."""
    assert well_formed(" ".join(KEYWORDS), PROMPT, finished=True) == 0.0
    stuffed = "Water is water and the water in the water is water with water. It is water."
    assert constraints(stuffed, PROMPT, TRUTH) == 0.5
    assert well_formed(stuffed, PROMPT, finished=True) == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "The ocean is big. The ocean is big. The ocean is big. The ocean is big.",
        "Fish live in it and fish live in it and fish live in it.",
        "It is very very very deep down there.",
        "- Whales are big animals.\n- Fish are small.\n- Whales are big animals.",
        "the a the b the c the d the e the f.",
    ],
)
def test_going_round_in_circles_is_not_well_formed(response: str) -> None:
    assert repeats(response)
    assert well_formed(response, PROMPT, finished=True) == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "The ocean is full of salty water, and whales and",
        "The ocean is full of salty water:",
        "The ocean is full of salty water. <|im_start|> Really?",
        "The ocean is full of salty water.\nuser\nTell me more.",
        "The ocean is full of salty water.\nUser: tell me more about it.",
    ],
)
def test_a_broken_end_and_marks_of_a_chat_are_not_well_formed(response: str) -> None:
    assert well_formed(response, PROMPT, finished=True) == 0.0


def test_an_answer_that_was_cut_off_is_not_well_formed() -> None:
    assert well_formed(ANSWER, PROMPT, finished=False) == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "Whales, fish and crabs live there (and squid).",
        "- Whales are big\n- Fish are small\n- Crabs are red",
        '{"name": "the ocean", "fact": "It is deep and cold."}',
        '```json\n{"name": "the ocean", "fact": "It is deep and cold."}\n```',
        'He said: "The user is at the system of the sea, which is deep."',
    ],
)
def test_prose_lists_and_json_are_well_formed(response: str) -> None:
    assert well_formed(response, PROMPT, finished=True) == 1.0


@pytest.mark.parametrize("hidden", ["i\u200bs", "i\u00ads", "\uff49\uff53", "\U0001d422\U0001d42c"])
def test_what_is_read_is_what_is_seen(hidden: str) -> None:
    """Invisible characters hide no word, and letters of another alphabet's block are letters."""
    truth = to_json([Avoid(word="is"), LowerCase()])

    assert constraints(f"the wide sea {hidden} full of salt.", PROMPT, truth) == 0.5
    assert constraints("the wide sea has salt \U0001d400nd fish.", PROMPT, truth) == 0.5
    assert all_three("the\u200b \u200bsea\u200b \u200b", truth=truth) == (0.0, 0.0, 0.0)


def test_brevity_falls_with_length_to_zero() -> None:
    values = [brevity(ANSWER, PROMPT, response_tokens=tokens, budget=96) for tokens in (12, 48, 96, 200)]

    assert values == [0.875, 0.5, 0.0, 0.0]


def test_bullets_of_no_content_are_no_answer() -> None:
    assert constraints("- a\n- b\n- c", "List three things.", to_json([Bullets(num=3)])) == 0.0
