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

THREE_SENTENCES = "Dr. Smith keeps bees. They cost about 3.5 coins each! Is that much?"
FRENCH = "La mer est grande et bleue. Les poissons y vivent depuis toujours."

GOOD: list[tuple[Constraint, str]] = [
    (Bullets(num=2), "Here are two points:\n- Bread is warm.\n- Bread is cheap."),
    (Bullets(num=2), "1. Bread is warm\n\n2) Bread is cheap"),
    (Bullets(num=2), "* **Warm**: from the oven\n  • Cheap: flour and water"),
    (Sentences(num=3), THREE_SENTENCES),
    (Sentences(num=2), "Bees fly far\nThey come home."),
    (Json(keys=["fact", "name"]), '{"name": "bee", "fact": "It makes {honey}."}'),
    (Json(keys=["fact", "name"]), '```json\n{"fact": "It makes honey.", "name": "bee"}\n```\n'),
    (Keyword(word="water"), "Most of the sea is Water."),
    (Avoid(word="is"), "This island has no isthmus."),
    (LowerCase(), "bees make honey, 3 jars a year."),
    (Ending(phrase="That is all."), "Bees make honey in their hives. That is all.\n"),
    (Ending(phrase="That is all."), 'Bees make honey in their hives. "That is all."'),
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
    (Sentences(num=3), "Bees fly. They sting."),
    (Sentences(num=3), "A. B. C."),
    (Sentences(num=3), "Bees fly far. Bees fly far. Bees fly far."),
    (Sentences(num=3), "Bees fly far... ! ?"),
    (Json(keys=["fact", "name"]), '{"name": "bee"}'),
    (Json(keys=["fact", "name"]), '{"name": "bee", "fact": "honey", "more": "wax"}'),
    (Json(keys=["fact", "name"]), '{"name": "", "fact": 3}'),
    (Json(keys=["fact", "name"]), 'Here it is: {"name": "bee", "fact": "It makes honey."}'),
    (Json(keys=["fact", "name"]), "[" * 100_000),
    (Json(keys=["fact", "name"]), '["fact", "name"]'),
    (Keyword(word="water"), "Underwater waterfalls are wet."),
    (Keyword(word="water"), "The sea is wet. Water."),
    (Keyword(word="water"), 'The word "Water" is not known here.'),
    (Keyword(word="water"), "Water here, water there, water is near, water is clear."),
    (Avoid(word="is"), "What it IS, nobody knows."),
    (LowerCase(), "bees make Honey."),
    (LowerCase(), "1 2 3 4 5"),
    (Ending(phrase="That is all."), "That is all. Bees make honey in their hives."),
    (Ending(phrase="That is all."), "That is all."),
    (AtMost(num=4), "Bees make good honey here."),
    (AtLeast(num=4), "Bees make honey."),
    (AtLeast(num=8), "Bees bees bees bees bees bees make honey."),
    (Language(name="French"), "The sea is large and blue. I like to swim there."),
    (Language(name="French"), "Voici ma réponse en français. The sea is large and blue, and many fish live in it."),
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
