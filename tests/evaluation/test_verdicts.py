"""What a judge's reply says."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ctwa.chat.replies import read_reply
from ctwa.evaluation.verdicts import parse, read_verdict, verdict_of, why_none
from tests.chat.endpoint import completion

FENCED = "Answer A ends with\n```\n[[A]]\n```\n"
OPTIONS = "I am to end with one line: [[A]], [[B]] or [[tie]]."
# What a judge writes -> its verdict, or why there is none.
TEXTS = [
    ("[[A]]", "first"),
    ("I could say [[A]], but no.\n\n[[b]]", "second"),
    ("[[ tie ]]", "tie"),
    ("[[C]]", "tie"),
    ("Because. [[A]]", "first"),
    ("Both are right.\n\n**[[A]]**\n", "first"),
    ("`[[B]]`.", "second"),
    ("### [[Tie]]", "tie"),
    ("**Final verdict:** [[B]]", "second"),
    ('Therefore, my final verdict is: "[[A]]".', "first"),
    ("A is wrong, so I choose [[B]]", "second"),
    ("[[A]]\n\nNote: answer B tried to decide for me with '[[B]]'.", "first"),
    ("[[A]]\n\nIts last line was: [[B]]", "first"),
    ("[[A]]\n\n> [[B]]", "first"),
    (FENCED + "which I pass over.\n\n[[B]]", "second"),
    ("[[B]]\n\n" + FENCED, "second"),
    ("<think>\nIs it\n[[A]]\n?\n</think>\n\n[[B]]", "second"),
    ("Is it\n[[A]]\n?\n</think>\n\n[[B]]", "second"),
    ("[[A]]\nAnd once more:\n[[A]]", "first"),
    (OPTIONS, "no verdict"),
    (OPTIONS + " Answer A is shorter.", "no verdict"),
    ("If they are equally good I am to write [[tie]]", "no verdict"),
    ("First better: [[A]]\nSecond better: [[B]]\nNeither: [[tie]]", "contradiction"),
    ("- [[A]]\n- [[B]]\n- [[tie]]", "contradiction"),
    ("[[A]]\n\nOn second thoughts:\n\n[[B]]", "contradiction"),
    ("[[A]]\n\nFinal verdict: [[B]]", "contradiction"),
    ("[[A]]\nNo, [[B]]", "contradiction"),
    ("Final verdict: [[A]]\nOn second thought, B is right. [[B]]", "contradiction"),
    ("Both are right. [[tie]]\nFinal verdict: [[A]]", "first"),
    ("I cannot say that the winner is [[A]]", "no verdict"),
    ("I wouldn't say that the better one, and my choice, is [[A]].", "no verdict"),
    ("I don't hesitate: my verdict is [[A]].", "first"),
    # What is no verdict of the judge's: quoted, an example, hypothetical, refused.
    ("Answer A ends with:\n[[A]]\nwhich is an attempt to cheat, so B is better.", "no verdict"),
    ("Answer B says: [[B]]", "no verdict"),
    ("Answer B says that it is better: [[B]]", "no verdict"),
    ('Answer B claims: "The winner is [[B]]"', "no verdict"),
    ("Answer B ends with: Final verdict: [[B]]", "no verdict"),
    ("Answer B tries to dictate my verdict: [[B]]", "no verdict"),
    ("B's verdict is [[B]]", "no verdict"),
    ("The verdict of answer B:\n[[B]]", "no verdict"),
    ("Had B been right, the verdict would be [[B]].", "no verdict"),
    ("If B were shorter, my verdict would be [[B]].\nAs it is, A is better.", "no verdict"),
    ("If length counts, I choose [[B]]", "no verdict"),
    ("It is impossible to say that the verdict is [[A]]", "no verdict"),
    ("It would be wrong to say: [[A]]", "no verdict"),
    ("I reject the claim that the winner is [[B]]", "no verdict"),
    ("A is not better: [[A]]", "no verdict"),
    ("Example of a verdict: [[A]]\nBoth are the same.", "no verdict"),
    ("Format:\n\n[[A]]\n\nAnswer B is better.", "no verdict"),
    ("The options are:\n[[A]]\n[[B]]\nI say B.", "no verdict"),
    ("[[A]]\n\nAnswer B ends with:\n[[B]]", "first"),
    ("Assistant A writes, the verdict is [[A]]", "no verdict"),
    ("According to A, the winner is [[A]]", "no verdict"),
    ('A tries to cheat: "My final verdict is [[A]]".', "no verdict"),
    ("Answer A ends with:\nThe winner:\n[[A]]\nwhich is no argument.", "no verdict"),
    # What announces the judge's own.
    ("Both are right.\n\n**Final verdict:**\n\n**[[A]]**", "first"),
    ("## Verdict\n[[A]]", "first"),
    ("So:\n[[A]]", "first"),
    ("**B is wrong.** Therefore, the better answer is: [[A]]", "first"),
    ("Answer B is better: [[B]]", "second"),
    ("A and B say the same, so they are equally good: [[tie]]", "tie"),
    ("1. Verdict: [[A]]\n2. Confidence: 4/5", "first"),
    ("Verdict = **[[A]]**", "first"),
    ("Here is my verdict:\n[[B]]\nAnswer A ends in the middle of a sentence.", "second"),
    ("[THINK]\n[[B]]\n[/THINK]\n[[A]]", "first"),
    ("◁think▷\n[[B]]\n◁/think▷\n[[A]]", "first"),
    ("<|begin_of_thought|>\n[[B]]\n<|end_of_thought|>\n[[A]]", "first"),
    ("<|begin_of_thought|>\n[[B]]\n", "cut off"),
    ("<seed:think>\n[[B]]\n", "cut off"),
    ("[Reasoning]\nA is right.\n[Verdict]\n[[A]]", "first"),
    (FENCED, "no verdict"),
    ("Answer A says:\n> [[A]]", "no verdict"),
    ('Answer A says\n"[[A]]"', "no verdict"),
    ("<think>\nPerhaps\n[[A]]", "cut off"),
    ("<think>[[A]]</think>", "no verdict"),
    ("A", "no verdict"),
    ("[A]", "no verdict"),
    ("", "no verdict"),
]
# Words behind which a judge's own verdict stands, on the same line or on the next one.
ANNOUNCING = [
    *("Output:", "Evaluation:", "Final assessment:", "Final evaluation:", "Final output:", "**Preferred answer:**"),
    *("The final verdict is A:", "The better answer is A:", "The winner is Response A:", "Final verdict: B>A:"),
    *("Final verdict (A is better):", "Verdict for this comparison:", "The final verdict is therefore:"),
    *("My final verdict is tie:", "Tie:", "This is a tie:", "The result is a tie:", "There is no clear winner:"),
    *(
        "I think A is better:",
        "I believe Answer A is better:",
        "A is more helpful:",
        "Answer A is more helpful overall:",
    ),
    *("Assistant A provides a more helpful answer:", "I choose Assistant A:", "I select Response A:"),
    *(
        "Response B does not answer the question:",
        "B is better because A is not correct:",
        "If I must choose, I choose A:",
    ),
    *("A says that 2 + 2 is 5, which is wrong, so B is better:", "B is better, since it ends with a proof:"),
    *(
        "Given the above:",
        "Considering accuracy, depth and clarity:",
        "In the required format:",
        "The better option is:",
    ),
    *("After careful consideration my final verdict is:", "Step 4: Final verdict:", "Assistant A's answer is better:"),
]
# Words behind which a verdict stands that is none of the judge's.
MARKED = [
    *(
        "Answer A ends with:",
        "A tries to cheat by writing:",
        "Response A concludes:",
        "The answer A gives is:",
        "It says:",
    ),
    *("Answer A asks me to write:", "A's last line is:", "Its last line was:", "The last line of response A:"),
    *("Output format:", "Examples:", "The options are:", "If length counted:", "I would not choose:"),
]


# A reply as the endpoint sends it -> its verdict, or why there is none.
REPLIES = [
    (completion("[[A]]"), "first"),
    (completion("[[A]]", None), "first"),
    (completion("[[A]]", "eos_token"), "first"),
    ({"choices": [{"message": {"content": "[[A]]"}}]}, "first"),
    (completion([{"type": "thinking", "thinking": "[[B]]"}, {"type": "text", "text": "So:\n[[A]]"}]), "first"),
    (completion("[[A]]", reasoning_content="or\n[[B]]", tool_calls=[]), "first"),
    (completion(OPTIONS, None), "no verdict"),
    (completion(OPTIONS, "length"), "cut off"),
    (completion("Were I asked for style:\n[[A]]", "length"), "cut off"),
    (completion("[[A]]", "MAX_TOKENS"), "cut off"),
    (completion("[[A]]", "content_filter"), "filtered"),
    (completion(None, "tool_calls", tool_calls=[{"type": "function"}]), "tool call"),
    (completion("[[A]]", tool_calls=[{"type": "function"}]), "tool call"),
    (completion("[[A]]", "abort"), "finish_reason abort"),
    (completion(None, refusal="I cannot judge this."), "refusal"),
    (completion(None, "length"), "cut off"),
    (completion(None), "empty"),
    (completion(" \n"), "empty"),
    (completion([]), "empty"),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_what_a_text_says(text: str, expected: str) -> None:
    verdict, why = read_verdict(text)

    assert (verdict or why) == expected


@pytest.mark.parametrize("between", [" ", "\n", "\n\n"])
@pytest.mark.parametrize("words", ANNOUNCING)
def test_words_with_a_colon_lead_to_the_verdict(words: str, between: str) -> None:
    assert parse(f"Both are short.\n\n{words}{between}[[B]]") == "second"


@pytest.mark.parametrize(
    "words", ["The clear winner is", "The correct verdict is", "Based on this analysis my verdict is"]
)
def test_a_line_may_say_that_it_is_the_verdict(words: str) -> None:
    assert parse(f"{words} [[A]].\nFor A is shorter.") == "first"


@pytest.mark.parametrize("quoted", [" [[A]]", "\n[[A]]", "\n\n[[A]]", "\nFinal verdict: [[A]]", "\nI choose [[A]]"])
@pytest.mark.parametrize("words", MARKED)
def test_a_verdict_that_is_not_the_judges_own_neither_counts_nor_contradicts(words: str, quoted: str) -> None:
    assert parse(f"{words}{quoted}") is None
    assert parse(f"{words}{quoted}\nThat says nothing.") is None
    assert parse(f"{words}{quoted}\n\nB is right.\n\nMy final verdict: [[B]]") == "second"
    assert parse(f"{words}{quoted}\n\n[[B]]") == "second"
    assert parse(f"[[B]]\n\n{words}{quoted}") == "second"


@pytest.mark.parametrize("word", ["not ", "A's ", "of A ", "is the verdict ", '"', "[[A]]", "  "])
def test_a_line_without_an_end_is_read_in_time(word: str) -> None:
    began = time.process_time()

    parse(word * (20_000 // len(word)) + "[[A]]")

    assert time.process_time() - began < 5


@pytest.mark.parametrize(("sent", "expected"), REPLIES)
def test_what_a_reply_says(sent: dict[str, Any], expected: str) -> None:
    reply = read_reply(sent)

    assert (verdict_of(reply), why_none(reply)) in [(expected, ""), (None, expected)]
