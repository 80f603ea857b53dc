r"""How often the grader is wrong: a sweep over answers as MATH writes them.

For every answer of a table, taken as the ground truth: the answer itself, ten other notations of it, and ten changes of
one character that change what it says. A false reject is one of the first two that is not graded 1, a false accept a
change that is graded 1. What is equal is decided by how a notation or a change is made, never by the grader:
a digit becomes another digit, a sign the opposite one, a letter another letter, a bracket the other kind.

    python benchmarks/grader.py [--data data/math500] [--with-math-verify] [--show]

The table is benchmarks/grader_answers.txt, written for this purpose; ``--data`` names a folder of parquet files in
verl's format whose ground truths are taken as well. ``--show`` prints every wrong grade.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import mean

import pyarrow.parquet as pq

from ctwa.data.boxed import final_answer
from ctwa.objectives.grading import grade
from ctwa.report.markdown import table

TABLE = Path(__file__).with_name("grader_answers.txt")
NUM_NOTATIONS = 10
NUM_CHANGES = 10

Grader = Callable[[str, str], float | None]  # response, ground truth -> grade


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of parquet files in verl's format")
    parser.add_argument("--with-math-verify", action="store_true", help="grade with plain math-verify too")
    parser.add_argument("--show", action="store_true", help="print every wrong grade")
    options = parser.parse_args()
    tables = {TABLE.name: table_answers()}
    if options.data is not None:
        tables[str(options.data)] = data_answers(options.data)
    graders: dict[str, Grader] = {"ctwa": ctwa_grade}
    if options.with_math_verify:
        graders["math-verify"] = math_verify_grader()
    rows, wrong = [], []
    for name, answers in tables.items():
        for grader_name, grader in graders.items():
            swept = sweep(answers, grader)
            times = f"{1e3 * mean(swept.seconds):.2f}"
            found = {"itself": "rejected", "notation": "rejected", "change": "accepted"}
            cells = [f"{swept.row(kind)} {done}" for kind, done in found.items()]
            rows.append([f"{len(answers)} of {name}", grader_name, *cells, swept.unscored, times])
            wrong += [(grader_name, *each) for each in swept.wrong]
    header = ("answers", "grader", "itself", "other notations", "changed by one character", "unscored")
    print(table((*header, "CPU ms a grade"), rows))
    for grader_name, kind, response, answer, score in wrong if options.show else ():
        print(f"    {grader_name}, {kind}: {response}  for  {answer}  is graded {score}")


@dataclass
class Sweep:
    """What was graded: numbers by kind, what was wrong, and the time of each grade."""

    graded: dict[str, int] = field(default_factory=dict)
    wrong: list[tuple[str, str, str, float | None]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    unscored: int = 0

    def row(self, kind: str) -> str:
        return f"{sum(entry[0] == kind for entry in self.wrong)} of {self.graded.get(kind, 0)}"


def sweep(answers: Iterable[str], grader: Grader) -> Sweep:
    """Grade every answer, its notations and its changes."""
    swept = Sweep()
    for answer in answers:
        for kind, response, expected in cases(answer):
            start = time.process_time()
            score = grader(response, answer)
            swept.seconds.append(time.process_time() - start)
            swept.graded[kind] = swept.graded.get(kind, 0) + 1
            if score is None:
                swept.unscored += 1
            if score != expected and not (score is None and kind == "change"):
                swept.wrong.append((kind, response, answer, score))
    return swept


def cases(answer: str) -> Iterator[tuple[str, str, float]]:
    """``(kind, response, grade)`` for the answer itself, its notations and its changes."""
    yield "itself", f"So \\boxed{{{answer}}}", 1.0
    for response in notations(answer):
        yield "notation", response, 1.0
    for changed in changes(answer):
        yield "change", f"So \\boxed{{{changed}}}", 0.0


def table_answers() -> list[str]:
    return TABLE.read_text().splitlines()


def data_answers(folder: Path) -> list[str]:
    """The different ground truths of a folder of parquet files."""
    rows = [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return sorted({row["reward_model"]["ground_truth"] for row in rows})


def ctwa_grade(response: str, ground_truth: str) -> float | None:
    return grade(response, ground_truth).score


def math_verify_grader() -> Grader:
    """math-verify on what the box holds, as a formula; without its time limits, which are alarms."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def grade_with_math_verify(response: str, ground_truth: str) -> float | None:
        gold, answer = (parse(f"${text}$", parsing_timeout=None) for text in (ground_truth, final_answer(response)))
        return float(verify(gold, answer, timeout_seconds=None))

    return grade_with_math_verify


# --- ten other notations -----------------------------------------------------------------------------------------

_UNICODE = {
    r"\pi": "π", r"\theta": "θ", r"\times": "×", r"\cdot": "·", r"\le": "≤", r"\ge": "≥", r"\infty": "∞", r"\cup": "∪",
    r"\in": "∈", r"\pm": "±", r"\emptyset": "∅", r"\cdots": "⋯",
}  # fmt: skip
_COMMAND = re.compile(r"\\[A-Za-z]+")


def notations(answer: str) -> list[str]:
    """Ten responses with the same answer in other notations: first those that only some answers have."""
    own = [changed for change in _OWN_NOTATIONS if (changed := change(answer)) not in (None, answer)]
    boxes = [f"So \\boxed{{{changed}}}" for changed in dict.fromkeys(own)]
    return (boxes + [write(answer) for write in _ANY_NOTATION])[:NUM_NOTATIONS]


_ANY_NOTATION: list[Callable[[str], str]] = [
    lambda answer: f"\\boxed{{{answer}.}}",
    lambda answer: f"\\boxed{{${answer}$}}",
    lambda answer: f"\\boxed{{\\boldsymbol{{{answer}}}}}",
    lambda answer: f"\\boxed{{\\displaystyle {answer}}}",
    lambda answer: f"\\boxed{{**{answer}**}}",
    lambda answer: f"\\boxed{{\\,{answer}\\,}}",
    lambda answer: f"\\fbox{{{answer}}}",
    lambda answer: f"\\boxed{{\\boxed{{{answer}}}}}",
    lambda answer: f"\\boxed{{{answer} ,}}",
    lambda answer: f"first \\boxed{{1}}, no: \\[\\boxed{{ {answer} }}\\]",
    lambda answer: f"\\boxed{{\\({answer}\\)}}",
]


def _with_unicode(answer: str) -> str:
    changed = _COMMAND.sub(lambda match: _UNICODE.get(match[0], match[0]), answer)
    changed = re.sub(r"\\sqrt\{(\d+)\}", r"√\1", changed)
    return changed if "text" in changed or "mbox" in changed else changed.replace("-", "−")


def _with_other_fractions(answer: str) -> str:
    if r"\dfrac" in answer or r"\tfrac" in answer:
        return re.sub(r"\\[dt]frac", r"\\frac", answer)
    return answer.replace(r"\frac", r"\dfrac")


def _with_short_fractions(answer: str) -> str:
    return re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", answer))


def _with_slash(answer: str) -> str | None:
    match = re.fullmatch(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}", answer)
    return f"{match[1]}{match[2]}/{match[3]}" if match else None


def _with_sized_brackets(answer: str) -> str | None:
    if r"\left" in answer or r"\text" in answer or "|" in answer or r"\lfloor" in answer:
        return answer.replace(r"\left", "").replace(r"\right", "") if r"\text" not in answer else None
    return re.sub(r"([)\]])", r"\\right\1", re.sub(r"(?<!sqrt)([(\[])", r"\\left\1", answer))


def _with_name(answer: str) -> str | None:
    is_value = re.fullmatch(r"[-\d./\s]+|-?\\[dt]?frac.*|\d*\\?sqrt.*|[\d\\]+\\?pi", answer)
    return f"w = {answer}" if is_value and "=" not in answer else None


def _without_spaces(answer: str) -> str | None:
    if re.search(r"\\text|\\mbox|\d \d|\d \\frac", answer):
        return None
    return re.sub(r"(?<![A-Za-z]) | (?![A-Za-z])", "", answer)


def _reordered(answer: str) -> str | None:
    match = re.fullmatch(r"(\\\{)?([^(){}\[\]|]+)(\\\})?", answer)
    if match is None or "," not in answer or r"\!" in answer or re.fullmatch(r"\d{1,3}(,\d{3})+", answer):
        return None
    items = [item.strip() for item in match[2].split(",")]
    return (match[1] or "") + ", ".join(reversed(items)) + (match[3] or "")


def _without_unit(answer: str) -> str | None:
    if re.search(r"million| and |\\sin", answer):
        return None
    bare = re.sub(r"\^\\circ$|\\%$|^\\\$|\s*\\(?:text|mbox)\{ [a-z ]+\}(?:\^\d)?$", "", answer)
    return bare or None


def _without_text(answer: str) -> str | None:
    match = re.fullmatch(r"\\text\{\(?(\w+)\)?\}", answer)
    return match[1] if match else None


def _commuted(answer: str) -> str | None:
    match = re.fullmatch(r"([\w\\{}^ ]+) \+ ([\w\\{}^ ]+)", answer)
    return f"{match[2]} + {match[1]}" if match else None


_OWN_NOTATIONS: list[Callable[[str], str | None]] = [
    _with_unicode,
    _with_other_fractions,
    _with_short_fractions,
    _with_slash,
    _with_sized_brackets,
    _with_name,
    _without_spaces,
    _reordered,
    _without_unit,
    _without_text,
    _commuted,
]

# --- ten changes of one character --------------------------------------------------------------------------------

_DIGITS = "0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_OTHER = {"+": "-", "(": "[", ")": "]", "[": "(", "]": ")", "<": ">", "=": "<", "^": "_"}
# Characters that belong to a command, to the name of an environment, or to the grouping of thousands.
_KEPT = re.compile(r"\\(?:begin|end)\{[a-z]+\}|\\left|\\right|\\[A-Za-z]+|,\\!|(?<=\d),(?=\d{3}(?!\d))")


def changes(answer: str) -> list[str]:
    """Ten texts that say something else, each a character away from the answer; fewer where there are no ten."""
    kept = {place for match in _KEPT.finditer(answer) for place in range(*match.span())}
    random = Random(answer)
    found = [
        changed for place in range(len(answer)) if place not in kept for changed in _changes_at(answer, place, random)
    ]
    if not re.match(r"-|\\pm|0$|\\emptyset", answer):
        found.append("-" + answer)
    found = [changed for changed in dict.fromkeys(found) if changed != answer]
    return random.sample(found, min(NUM_CHANGES, len(found)))


def _changes_at(answer: str, place: int, random: Random) -> Iterator[str]:
    before, character, after = answer[:place], answer[place], answer[place + 1 :]
    if character in _DIGITS:
        others = random.sample([digit for digit in _DIGITS if digit != character], 2)
        yield from (before + other + after for other in others)
        yield before + random.choice(_DIGITS[1:]) + character + after  # one digit more, which is no leading zero
        if not _is_idle_zero(answer, place):
            yield before + after
    elif character.isascii() and character.isalpha():
        yield before + random.choice([letter for letter in _LETTERS if letter != character.lower()]) + after
    elif character in _OTHER:
        yield before + _OTHER[character] + after
    elif character == "-":
        yield before + "+" + after
        yield before + after
    elif character == "," or character == ".":
        yield before + after


def _is_idle_zero(answer: str, place: int) -> bool:
    """Whether a number is the same without this zero: 0.5 and .5, 0.50 and 0.5."""
    if answer[place] != "0":
        return False
    number = next(match for match in re.finditer(r"[\d.]+", answer) if match.start() <= place < match.end())
    is_first = place == number.start() and "." in number[0]
    return is_first or (place == number.end() - 1 and "." in number[0])


if __name__ == "__main__":
    main()
