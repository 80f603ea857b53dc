"""What of a row's answer is its ground truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctwa.data.answers import Rule, extract, rule_for
from ctwa.data.files import open_rows
from ctwa.data.forms import find_form
from ctwa.data.reading import first_rows, read_rows
from ctwa.data.settings import RowSettings
from ctwa.errors import CtwaError
from tests.data.rows import read, spelled


class TestAnswers:
    @pytest.mark.parametrize(
        ("rule", "text", "found"),
        [
            ("as_is", "a #### 7 ", "a #### 7 "),
            ("hashes", "1\n#### 7", "7"),
            ("hashes", "#### 1\n####-1,234.5 \nthe end", "-1234.5"),
            ("hashes", "#### 1,2", "1,2"),
            ("boxed", r"\boxed{1} or \boxed{\text{a}}", r"\text{a}"),
            ("last_number", "It costs $1,234.50.", "1234.50"),
            ("last_number", "10-3 = 7 apples, in 2 bags", "2"),
            ("last_number", "from 5 to -3", "-3"),
            *(("last_number", text, "-3") for text in ("x = −3", "it is –3.")),
            *(("last_number", text, "3") for text in ("10-3", "10−3", "pages 2–3")),
            ("last_number", "x=.5", ".5"),
            ("last_number", "x is \u22125", "-5"),
            ("last_number", "from \u20135 m", "-5"),
            ("last_number", "5\u20137", "7"),
            ("last_number", "it is 1.5e-3", "1.5e-3"),
            ("last_number", "it is 2E\u22125.", "2E-5"),
            ("last_number", "so 3/4.", "3/4"),
            ("last_number", "-$1,200", "-1200"),
            ("last_number", "1, 2 and 3", "3"),
            *(("last_number", text, "1/2") for text in ("1, 1/2", "1/3 and 1/2", "2\n1/2")),
            ("last_number", "1...5", "5"),
        ],
    )
    def test_what_a_rule_takes(self, rule: Rule, text: str, found: str) -> None:
        assert extract(text, rule) == (found, None)

    @pytest.mark.parametrize(
        ("rule", "answer", "fault"),
        [
            ("hashes", "seven", "has no #### with something behind it: the text 'seven'"),
            ("hashes", "seven ####\n ", "has no #### with something behind it"),
            ("boxed", r"\boxed{1", r"has no \boxed{...} that is closed"),
            ("last_number", "seven", "has no number"),
            *(
                ("last_number", f"so {number}", f"ends with {number!r}, which can be read in several ways; write a pl")
                for number in (
                    "12,34",
                    "1 234",
                    "1\u202f234",
                    "12'500",
                    "12:30",
                    "10^5",
                    "1.2.3",
                    "3/4/2020",
                    "3 1/2",
                    "-1 1/2",
                )
            ),
            ("last_number", "3 1/2 cups", "ends with '3 1/2', which can be read in several ways"),
            ("last_number", "12 1/2 %", "ends with '12 1/2', which"),
            *(("last_number", text, "ends with '4', which") for text in ("x/4", "3 / 4", r"\frac{3}4", r"\dfrac3{4}")),
            *(("last_number", text, "ends with '34', which") for text in (r"\frac34", r"\frac 34.")),
            ("last_number", "x^{2}", "ends with '2', which"),
            ("last_number", r"\frac{3}{4}", "ends with '4', which"),
            ("last_number", 7, "is the number 7, and the rule 'last_number' reads text"),
            ("boxed", None, "is null, and the rule 'boxed' reads text"),
        ],
    )
    def test_where_there_is_nothing(self, rule: Rule, answer: Any, fault: str) -> None:
        found, said = extract(answer, rule)
        assert found is None
        assert fault in (said or "")

    def test_the_rule_that_an_answer_suggests(self) -> None:
        answers = ["#### 7", "1\n#### 7\n", "#### A heading\nand more", r"so \boxed{7}", r"\boxed{7", "7", 7, None]
        assert [rule_for(answer) for answer in answers] == [
            *("hashes", "hashes", "as_is", "boxed", "as_is", "as_is", "as_is", "as_is")
        ]

    def test_most_answers_decide(self, write: Callable[..., str]) -> None:
        """A first row that is unlike the others would have all of them taken, or refused, by its own rule."""
        answers = ["no idea", *(f"#### {n}" for n in range(5)), r"so \boxed{7}"]
        rows = [{"question": f"{n}?", "answer": answer} for n, answer in enumerate(answers)]

        assert find_form(open_rows(write(rows)), RowSettings(), spelled).rule == "hashes"
        assert find_form(open_rows(write(rows[:2])), RowSettings(), spelled).rule == "as_is"  # as many: the first

    @pytest.mark.parametrize("column", ["output", "response"])
    def test_a_response_may_have_marks_in_it(self, write: Callable[..., str], column: str) -> None:
        texts = ["A text", "# Title\n#### Usage", r"so \boxed{7}"]
        made = read(write([{"instruction": "Write.", column: text} for text in texts])).table.to_pylist()
        assert [row["reward_model"]["ground_truth"] for row in made] == texts

    @pytest.mark.parametrize("other", ["so\n#### 7", r"so \boxed{7}"])
    def test_an_answer_for_another_rule_than_most(self, write: Callable[..., str], other: str) -> None:
        """It would have its rationale taken for the ground truth."""
        source = write(
            [{"question": f"{n}?", "answer": "7" if n else "8"} for n in range(3)]
            + [{"question": "3?", "answer": other}]
        )
        with pytest.raises(
            CtwaError, match=r"row 3 .*its answer is for the rule '.*', and those of most rows are taken"
        ):
            read(source)
        truths = read(source, answer="as_is").table.to_pylist()
        assert [row["reward_model"]["ground_truth"] for row in truths] == ["8", "7", "7", other]

    def test_rows_without_one_are_named(self, write: Callable[..., str]) -> None:
        rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(20)]
        for bad in (3, 7, 8):
            rows[bad]["answer"] = "none"
        source = write(rows)

        with pytest.raises(CtwaError) as error:
            read(source)
        assert str(error.value) == (
            f"{source}, row 3 (from 0): its answer has no #### with something behind it: the text 'none'. 2 more of 20 "
            "rows cannot be used (row 7, row 8): mend them, or leave them out with data.bad_rows=skip"
        )
        with pytest.raises(CtwaError, match=r"the text 'none'. Mend it, or leave such rows out with data.bad_rows=sk"):
            first_rows(source, RowSettings(), spelled, 4)
        first = first_rows(source, RowSettings(bad_rows="skip"), spelled, 4)
        assert [row["question"] for row in first] == ["0?", "1?", "2?", "4?"]
        kept = read_rows([open_rows(source)], RowSettings(bad_rows="skip"), spelled)
        assert [index for _, index in kept.places] == [index for index in range(20) if index not in (3, 7, 8)]
        assert [each.index for each in kept.bad] == [3, 7, 8]

        rows[7]["answer"] = rows[8]["answer"] = "#### 7"
        with pytest.raises(CtwaError, match=r"It alone of 20 rows cannot be used: mend it, or leave it"):
            read(write(rows))

    @pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
    def test_one_that_is_asked_for_has_to_be_there(self, write: Callable[..., str], kind: str) -> None:
        rows = [{"question": f"{n}?", "answer": None if n % 2 else f"{n}"} for n in range(4)]
        source = write(rows, kind)

        assert read(source).without_truth == [1, 3]
        kept = read_rows([open_rows(source)], RowSettings(answer="as_is", bad_rows="skip"), spelled)
        assert ([each.index for each in kept.bad], kept.without_truth) == ([1, 3], [])
        with pytest.raises(CtwaError, match="its answer is null; write one, or leave the row out"):
            read(source, answer="as_is")

    def test_what_is_not_a_number_is_none(self, write: Callable[..., str]) -> None:
        source = write([{"question": f"{n}?", "answer": answer} for n, answer in enumerate([1.5, float("nan")])])
        assert read(source).without_truth == [1]
