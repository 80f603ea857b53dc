"""The kinds of constraint: what each asks for in a prompt, and how an answer is checked.

A constraint is a small strict model whose fields are its data: it goes into a data set as JSON and comes back by its
``kind``. Kinds of the same ``slot`` never meet in one prompt, nor do those that ``excludes`` names.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, TypeAdapter

from ctwa.instructions import text as reading
from ctwa.instructions.languages import language_of
from ctwa.strict import StrictModel

KEYWORDS = (
    "always", "because", "best", "careful", "change", "enjoy", "family", "favorite", "first", "friends", "future",
    "happy", "history", "home", "important", "learn", "light", "morning", "nature", "often", "people", "simple",
    "small", "special", "strong", "time", "together", "water", "work", "world",
)  # fmt: skip
FORBIDDEN = (
    "also", "and", "are", "can", "for", "from", "in", "is", "it", "many", "of", "on", "that", "their", "this", "to",
    "with", "you",
)  # fmt: skip
ENDINGS = (
    "That is all.",
    "Thank you for reading.",
    "I hope this helps.",
    "What do you think?",
    "Now it is your turn.",
    "Have a nice day!",
)
KEYS = (
    "advice", "author", "category", "description", "example", "fact", "name", "place", "reason", "summary", "title",
    "topic",
)  # fmt: skip
LanguageName = Literal["French", "German", "Italian", "Spanish"]
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
LANGUAGES: dict[LanguageName, str] = {"French": "fr", "German": "de", "Italian": "it", "Spanish": "es"}
SURE = 0.9
"""What the language of a whole answer has to have as its probability, among ours and English."""


class Constraint(StrictModel):
    """One requirement of a prompt.

    Attributes:
        kind: its name in a data set.
        slot: what it is about; a prompt has at most one constraint of a slot.
        excludes: kinds that cannot be asked for with it.
        phrasings: what the prompt says; fields and what ``spoken`` adds stand in braces.
    """

    kind: str
    slot: ClassVar[str]
    excludes: ClassVar[tuple[str, ...]] = ()
    phrasings: ClassVar[tuple[str, ...]]

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """One with random data."""
        raise NotImplementedError

    def spoken(self) -> dict[str, Any]:
        """How the data is said in a phrasing."""
        return {}

    def holds(self, answer: str) -> bool:
        """Whether the answer keeps to it."""
        raise NotImplementedError

    def ask(self, rng: random.Random) -> str:
        """A sentence that asks for it."""
        return rng.choice(self.phrasings).format(**self.model_dump() | self.spoken())


class Bullets(Constraint):
    """An exact number of bullets."""

    kind: Literal["bullets"] = "bullets"
    num: int
    slot = "form"
    excludes = ("ending", "language")
    phrasings = (
        'Write exactly {word} bullet points, each on a line of its own that begins with "- ".',
        "Answer with a list of exactly {num} bullet points.",
        "Give your answer as {word} bullet points, no more and no fewer.",
        "List {word} points, each as a bullet.",
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """Two to five."""
        return cls(num=rng.randint(2, 5))

    def spoken(self) -> dict[str, Any]:
        """The number as a word."""
        return {"word": NUMBERS[self.num]}

    def holds(self, answer: str) -> bool:
        """So many lines are bullets, each with different words in it."""
        found = [tuple(reading.words(bullet)) for bullet in reading.bullets(answer)]
        return len(found) == self.num and all(found) and len(set(found)) == self.num


class Sentences(Constraint):
    """An exact number of sentences."""

    kind: Literal["sentences"] = "sentences"
    num: int
    slot = "form"
    excludes = ("at_least",)
    phrasings = (
        "Write exactly {plural}.",
        "Answer in exactly {plural}.",
        "Your answer must have {plural}, no more and no fewer.",
        "Use {plural}.",
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """Two to four: one is what a short answer has anyway."""
        return cls(num=rng.randint(2, 4))

    def spoken(self) -> dict[str, Any]:
        """Number and noun."""
        return {"plural": f"{NUMBERS[self.num]} sentences"}

    def holds(self, answer: str) -> bool:
        """So many sentences, each of two words or more and none twice."""
        found = [tuple(reading.words(sentence)) for sentence in reading.sentences(answer)]
        return len(found) == self.num == len(set(found)) and all(len(each) > 1 for each in found)


class Json(Constraint):
    """A JSON object with exactly the given keys, and text in each."""

    kind: Literal["json"] = "json"
    keys: list[str]
    slot = "form"
    excludes = ("ending", "language", "at_least", "lower_case")
    phrasings = (
        "Answer with a JSON object that has exactly the keys {names}, each with a short text.",
        "Give your answer as JSON with the keys {names} and nothing else.",
        "Write a JSON object with these keys: {names}.",
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """Two keys."""
        return cls(keys=sorted(rng.sample(KEYS, 2)))

    def spoken(self) -> dict[str, Any]:
        """The keys in quotes."""
        return {"names": " and ".join(f'"{key}"' for key in self.keys)}

    def holds(self, answer: str) -> bool:
        """The whole answer is such an object; a code fence around it is none of it."""
        try:
            value = reading.json_in(answer)
        except ValueError:
            return False
        return (
            isinstance(value, dict)
            and sorted(value) == sorted(self.keys)
            and all(isinstance(each, str) and reading.words(each) for each in value.values())
        )


class Keyword(Constraint):
    """A word to use."""

    kind: Literal["keyword"] = "keyword"
    word: str
    slot = "words"
    excludes = ("language",)
    phrasings = (
        'Use the word "{word}".',
        'Your answer must contain the word "{word}".',
        'Include the word "{word}" in your answer.',
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """A common word."""
        return cls(word=rng.choice(KEYWORDS))

    def holds(self, answer: str) -> bool:
        """The word is used one to three times, at least once among other words; in quotes it is not used."""
        used = re.sub(rf"""["“'‘`]{re.escape(self.word)}["”'’`]""", "", answer, flags=re.IGNORECASE)
        sentences = [reading.parts(sentence) for sentence in reading.sentences(used)]
        spoken = [[part.removesuffix("'s") for part in sentence] for sentence in sentences]
        count = sum(sentence.count(self.word) for sentence in spoken)
        return 1 <= count <= 3 and any(self.word in sentence and len(set(sentence)) >= 3 for sentence in spoken)


class Avoid(Constraint):
    """A word to avoid."""

    kind: Literal["avoid"] = "avoid"
    word: str
    slot = "words"
    excludes = ("language", "ending")
    phrasings = (
        'Do not use the word "{word}".',
        'Answer without the word "{word}".',
        'The word "{word}" is not allowed.',
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """A word that is hard to do without."""
        return cls(word=rng.choice(FORBIDDEN))

    def holds(self, answer: str) -> bool:
        """The word is not there."""
        return self.word not in reading.parts(answer)


class LowerCase(Constraint):
    """No capital letter."""

    kind: Literal["lower_case"] = "lower_case"
    slot = "case"
    excludes = ("language", "ending")
    phrasings = (
        "Use only lower case letters.",
        "Write everything in lower case, without any capital letter.",
        "Your whole answer must be in lower case.",
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """There is nothing to draw."""
        del rng
        return cls()

    def holds(self, answer: str) -> bool:
        """Letters, and none of them a capital."""
        return answer == answer.lower() and any(letter.isalpha() for letter in answer)


class Ending(Constraint):
    """A phrase to end with."""

    kind: Literal["ending"] = "ending"
    phrase: str
    slot = "ending"
    excludes = ("language",)
    phrasings = (
        'End your answer with the words "{phrase}"',
        'The last words of your answer must be "{phrase}"',
        'Finish with exactly this phrase: "{phrase}"',
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """A phrase of three to five words."""
        return cls(phrase=rng.choice(ENDINGS))

    def holds(self, answer: str) -> bool:
        """The phrase is at the end, with quotes around it or without, and something else before it."""
        stripped = " ".join(answer.split()).rstrip("\"'”’»*_`)")
        before = stripped.removesuffix(self.phrase)
        is_apart = before != stripped and not before[-1:].isalnum()
        return is_apart and len(reading.words(before)) >= reading.MIN_WORDS


class AtMost(Constraint):
    """A largest number of words."""

    kind: Literal["at_most"] = "at_most"
    num: int
    slot = "length"
    phrasings = (
        "Use at most {num} words.",
        "Your answer must not be longer than {num} words.",
        "Write no more than {num} words.",
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """Enough for a few sentences."""
        return cls(num=rng.choice((20, 25, 30, 40)))

    def holds(self, answer: str) -> bool:
        """No more words."""
        return len(reading.words(answer)) <= self.num


class AtLeast(Constraint):
    """A smallest number of words: where brevity costs something."""

    kind: Literal["at_least"] = "at_least"
    num: int
    slot = "length"
    phrasings = (
        "Use at least {num} words.",
        "Your answer must have {num} words or more.",
        "Write no fewer than {num} words.",
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """What an answer of 96 tokens has room for."""
        return cls(num=rng.choice((20, 25, 30, 40)))

    def holds(self, answer: str) -> bool:
        """As many words, half of them different: repeating a few is no length."""
        found = reading.words(answer)
        return len(found) >= self.num and len(set(found)) >= self.num / 2


class Language(Constraint):
    """A language to answer in."""

    kind: Literal["language"] = "language"
    name: LanguageName
    slot = "language"
    phrasings = (
        "Answer in {name}.",
        "Write your answer in {name}, not in English.",
        "Your whole answer must be in {name}.",
    )

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """One of four."""
        return cls(name=rng.choice(list(LANGUAGES)))

    def holds(self, answer: str) -> bool:
        """The whole is surely of that language, and so is every sentence; short ones are looked at together."""
        code, among = LANGUAGES[self.name], ("en", *LANGUAGES.values())
        found, probability = language_of(answer, among)
        told = reading.joined(reading.sentences(answer), reading.MIN_WORDS)
        return found == code and probability >= SURE and all(language_of(each, among)[0] == code for each in told)


AnyConstraint = Annotated[
    Bullets | Sentences | Json | Keyword | Avoid | LowerCase | Ending | AtMost | AtLeast | Language,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[Constraint]] = {
    str(each.model_fields["kind"].default): each for each in get_args(get_args(AnyConstraint)[0])
}
_READER = TypeAdapter(list[AnyConstraint])


def compatible(first: str, second: str) -> bool:
    """Whether a prompt may ask for both kinds."""
    a, b = KINDS[first], KINDS[second]
    return a.slot != b.slot and first not in b.excludes and second not in a.excludes


def to_json(constraints: Sequence[Constraint]) -> str:
    """A prompt's constraints as a row carries them."""
    return json.dumps([each.model_dump() for each in constraints])


@lru_cache(maxsize=4096)
def from_json(text: str) -> tuple[Constraint, ...]:
    """What ``to_json`` wrote.

    Raises:
        pydantic.ValidationError: the text is not that.
    """
    return tuple(_READER.validate_json(text))
