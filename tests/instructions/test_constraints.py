"""Every kind of constraint takes good answers and refuses broken ones."""

from __future__ import annotations

import random

import pytest

from ctwa.instructions.constraints import (
    KINDS,
    AtLeast,
    AtMost,
    Avoid,
    Bullets,
    Constraint,
    Ending,
    Json,
    Keyword,
    Language,
    LowerCase,
    Sentences,
    compatible,
    from_json,
    to_json,
)
from ctwa.instructions.text import sentences

THREE_SENTENCES = "Dr. Smith keeps bees. They cost about 3.5 coins each! Is that much?"
FRENCH = "La mer est grande et bleue. Les poissons y vivent depuis toujours."

GOOD: list[tuple[Constraint, str]] = [
    (Bullets(num=2), "Here are two points:\n- Bread is warm.\n- Bread is cheap."),
    (Bullets(num=2), "1. Bread is warm\n\n2) Bread is cheap"),
    (Bullets(num=2), "* **Warm**: from the oven\n  • Cheap: flour and water"),
    (Bullets(num=2), "● Bread is warm.\n◦ Bread is cheap."),
    (Bullets(num=2), "**1. Warm**: from the oven\n**2. Cheap**: flour and water"),
    (Sentences(num=3), THREE_SENTENCES),
    (Sentences(num=2), "They are rich in vitamin C. They are good for you and I."),
    (Sentences(num=2), "John F. Kennedy ate one. Prof. A. B. Jones, at 9 a.m. sharp, ate two."),
    (Sentences(num=2), 'He said, "Bees fly!" and left... at last. It was about 9 p.m. when he did.'),
    (Sentences(num=2), "it is 9 a.m. now... not much. they fly."),
    (Sentences(num=2), "Bees fly far\nThey come home."),
    (Json(keys=["fact", "name"]), '{"name": "bee", "fact": "It makes {honey}."}'),
    (Json(keys=["fact", "name"]), '```json\n{"fact": "It makes honey.", "name": "bee"}\n```\n'),
    (Json(keys=["fact", "name"]), '```JSON {"fact": "It makes honey.", "name": "bee"}```'),
    (Keyword(word="water"), "Most of the sea is Water."),
    (Keyword(word="water"), "The water's edge is cold."),
    (Keyword(word="water"), "Most paints are water-based."),
    (Avoid(word="is"), "This island has no isthmus."),
    (LowerCase(), "bees make honey, 3 jars a year."),
    (Ending(phrase="That is all."), "Bees make honey in their hives. That is all.\n"),
    (Ending(phrase="That is all."), 'Bees make honey in their hives. "That is all."'),
    (Ending(phrase="That is all."), "Bees make honey in their hives. _That is\nall._"),
    (Ending(phrase="That is all."), "Bees make honey in their hives. (That is all.)"),
    (AtMost(num=4), "Well-known bees don't sleep."),
    (AtLeast(num=4), "Bees make good honey."),
    (Language(name="French"), FRENCH),
    (Language(name="German"), "Das Meer ist groß und blau. Ich schwimme gern darin."),
    (Language(name="Italian"), "Il mare è grande e blu. Mi piace nuotare con i miei amici."),
    (Language(name="Spanish"), "El mar es grande y azul. Me gusta nadar con mis amigos."),
]
BROKEN: list[tuple[Constraint, str]] = [
    (Bullets(num=2), "- Bread is warm.\n- Bread is cheap.\n- Bread is old."),
    (Bullets(num=2), "Bread is warm - and cheap - and old."),
    (Bullets(num=2), "-\n-"),
    (Bullets(num=2), "- Bread is warm.\n- bread is warm"),
    (Bullets(num=2), "**Bread** is warm.\n*Bread* is cheap."),
    (Bullets(num=2), "- Bread is warm.\n- Bread is cheap.\n◦ Bread is old."),
    (Bullets(num=2), "- Bread is warm.\n- Bread is cheap.\n– Bread is old."),
    (Bullets(num=2), "1. Bread is warm.\n2. Bread is cheap.\n(3) Bread is old."),
    (Sentences(num=3), "Bees fly. They sting."),
    (Sentences(num=2), "Bees fly far. They come home.They sleep."),
    (Sentences(num=3), "A. B. C."),
    (Sentences(num=3), "Bees fly far. Bees fly far. Bees fly far."),
    (Sentences(num=3), "Bees fly far... ! ?"),
    (Json(keys=["fact", "name"]), '{"name": "bee"}'),
    (Json(keys=["fact", "name"]), '{"name": "bee", "fact": "honey", "more": "wax"}'),
    (Json(keys=["fact", "name"]), '{"name": "", "fact": 3}'),
    (Json(keys=["fact", "name"]), 'Here it is: {"name": "bee", "fact": "It makes honey."}'),
    (Json(keys=["fact", "name"]), "[" * 100_000),
    (Json(keys=["fact", "name"]), '["fact", "name"]'),
    (Json(keys=["fact", "name"]), '{"name": "bee", "fact": "honey", "name": "wasp"}'),
    (Keyword(word="water"), "The keyword 'water' is not known here."),
    (Keyword(word="water"), "The keyword ‘water’ is not known here."),
    (Keyword(word="water"), "Underwater waterfalls are wet."),
    (Keyword(word="water"), "The sea is wet. Water."),
    (Keyword(word="water"), 'The word "Water" is not known here.'),
    (Keyword(word="water"), "Water here, water there, water is near, water is clear."),
    (Avoid(word="is"), "What it IS, nobody knows."),
    (Avoid(word="is"), "The sea is-big and wide."),
    (LowerCase(), "bees make Honey."),
    (LowerCase(), "1 2 3 4 5"),
    (Ending(phrase="That is all."), "That is all. Bees make honey in their hives."),
    (Ending(phrase="That is all."), "That is all."),
    (Ending(phrase="That is all."), "Bees make honey in their hives, and xThat is all."),
    (AtMost(num=4), "Bees make good honey here."),
    (AtMost(num=4), "Bees-make-good-honey-here."),
    (AtLeast(num=4), "Bees make honey."),
    (AtLeast(num=8), "Bees bees bees bees bees bees make honey."),
    (Language(name="French"), "The sea is large and blue. I like to swim there."),
    (Language(name="French"), "Voici ma réponse en français. The sea is large and blue, and many fish live in it."),
    (Language(name="French"), "It is big. Big, blue. Deep. So wide. Les poissons y vivent depuis toujours et partout."),
    (Language(name="French"), "French, French, French, French, French."),
    (Language(name="French"), "El mar es grande y azul. Me gusta nadar con mis amigos."),
]


def label(case: tuple[Constraint, str]) -> str:
    return f"{case[0].kind}-{case[1][:20]!r}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("constraint", "answer"), GOOD, ids=map(label, GOOD))
def test_a_good_answer_is_accepted(constraint: Constraint, answer: str) -> None:
    assert constraint.holds(answer)


@pytest.mark.parametrize(("constraint", "answer"), BROKEN, ids=map(label, BROKEN))
def test_a_broken_answer_is_refused(constraint: Constraint, answer: str) -> None:
    assert not constraint.holds(answer)


def test_every_kind_is_tried_both_ways() -> None:
    for cases in (GOOD, BROKEN):
        assert {type(constraint) for constraint, _ in cases} == set(KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_holds_for_nothing_but_what_forbids(kind: str) -> None:
    """An empty answer is refused by the kind itself, where the kind asks for something to be there."""
    drawn = KINDS[kind].draw(random.Random(0))

    assert drawn.holds("") == (kind in {"avoid", "at_most"})


@pytest.mark.parametrize("kind", KINDS)
def test_every_phrasing_says_all_of_the_data(kind: str) -> None:
    rng = random.Random(1)
    for phrasing in KINDS[kind].phrasings:
        drawn = KINDS[kind].draw(rng)
        text = phrasing.format(**drawn.model_dump() | drawn.spoken())
        for value in drawn.model_dump(exclude={"kind"}).values():
            spoken = [value] if isinstance(value, str) else value if isinstance(value, list) else None
            if spoken is None:
                assert str(value) in text or ("zero", "one", "two", "three", "four", "five")[value] in text
            else:
                assert all(each in text for each in spoken)


def test_constraints_come_back_from_their_json() -> None:
    drawn = [kind.draw(random.Random(2)) for kind in KINDS.values()]

    assert list(from_json(to_json(drawn))) == drawn


def test_compatibility_has_no_order() -> None:
    assert all(compatible(a, b) == compatible(b, a) for a in KINDS for b in KINDS)
    assert not any(compatible(kind, kind) for kind in KINDS)
    assert all(any(compatible(kind, other) for other in KINDS) for kind in KINDS)


def test_a_run_of_marks_is_looked_at_once() -> None:
    """A policy that repeats itself writes them; a look from each of them would take an hour."""
    assert sentences("Wait" + "." * 300_000 + "x") == ["Wait" + "." * 300_000 + "x"]
    assert sentences("No" + "!" * 300_000 + '"' * 300_000 + " So.")[1:] == ["So."]
