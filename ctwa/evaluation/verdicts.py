"""What a judge's reply says: its verdict, or why it holds none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from ctwa.chat.replies import Reply, without_thought

Verdict = Literal["first", "second", "tie"]
_VERDICTS: Mapping[str, Verdict] = {"a": "first", "b": "second", "tie": "tie", "c": "tie"}
_TOKEN = r"\[\[\s*(A|B|C|tie)\s*\]\]"
_MARKS = r"[\s*_`]*"  # Markdown's bold, italics, code
_ANY = re.compile(_TOKEN, re.IGNORECASE)
_ALONE = re.compile(rf"[-#\s]*{_MARKS}{_TOKEN}{_MARKS}[.!]?{_MARKS}", re.IGNORECASE)
# A line with one verdict at its end, and the words before it.
_LINE = re.compile(rf"(.*?)[\"“']?{_TOKEN}[\"”']?{_MARKS}[.!]?{_MARKS}", re.IGNORECASE)
# Words that say that the verdict follows: "**Final verdict:** [[A]]", "So I choose [[B]]."
_DECLARES = re.compile(
    r".*\b(?:(?:verdict|judge?ment|decision|conclusion|winner|overall|result|vote"
    r"|(?:my|the|final|better|best|preferred) (?:answer|response|one|choice|pick|rating|preference))"
    r"(?: (?:is|should be|would be|goes to))?"
    r"|I(?:['’]ll)? (?:(?:therefore|thus|hence|will|must) )?(?:choose|pick|prefer|select|vote(?: for)?|go with))"
    r"\s*[:=—–-]?",
    re.IGNORECASE,
)
# Words behind which a verdict may end the text: "Both are right, A is shorter. [[A]]", "A is better: [[A]]"
_LEADS_TO_IT = re.compile(r".*[.!?:;,—–-]")

# What marks a verdict that is not the judge's: it is an answer's, an example, refused, or one that would be.
_WHO = r"\b(?:answer|response|assistant|(?-i:[AB])|it)"
_SAYS = (
    r"\b(?:says|writes|claims|states|concludes|declares|argues|insists|tries|attempts|ends with"
    r"|(?:asks|tells|instructs|wants) (?:me|us|the (?:judge|reader)))"
)
_WORDS = r"(?:verdict|conclusion|claim|lines?|words|ending)"
_STOPS = r"(?: \w+)?\s*(?:[:=]|$)"
_QUOTED = re.compile(
    rf"{_WHO}\b.*{_SAYS}\b|{_WHO} gives{_STOPS}"
    rf"|(?:{_WHO}['’]s|\bits) (?:\w+ )?{_WORDS}{_STOPS}|{_WORDS} (?:of|in|from|by) (?:the )?{_WHO}(?: [AB])?{_STOPS}"
    r"|^(?!(?:in|following|using|as|per|with)\b)(?:\w+ ){0,2}(?:formats?|examples?|options)\b",
    re.IGNORECASE,
)
_SPEAKS = re.compile(rf".*{_WHO}\b.*{_SAYS}(?: that)?|according to (?:the )?{_WHO}(?: [AB])?", re.IGNORECASE)
_IN_MARKS = re.compile(r"\w.*[\"“][^\"”]+")
_DENIED = re.compile(
    r"\b(?:not|never|cannot|\w+n['’]t)\b(?!.*\b(?:than|either)\b)"
    r".*\b(?:better|best|winner|verdict|say|write|choose|pick|prefer|select)\b|\b(?:impossible|wrong) to\b|\breject\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"(?:if(?! I (?:must|ha(?:d|ve) to) (?:choose|pick|decide))|unless|had|were|suppos\w+|assum\w+)\b", re.IGNORECASE
)
_REASON = re.compile(r"\b(?:because|since|while|whereas|although|though|which)\b[^,:]*", re.IGNORECASE)
_NEAR = 300  # characters before a verdict: searching a sentence without an end would take the square of its length
_SENTENCE_ENDS = re.compile(r"[.!?;][\"”)]*(?:\s|$)")
_CLAUSE_ENDS = re.compile(r",\s|—|\s[–-]\s|\s(?:but|so|therefore|thus|hence)\s", re.IGNORECASE)


def verdict_of(reply: Reply) -> Verdict | None:
    """The verdict, where the reply may hold one and does."""
    return None if reply.flaw else parse(reply.text)


def why_none(reply: Reply) -> str:
    """Why a reply holds no verdict; empty where it holds one."""
    return reply.flaw or read_verdict(reply.text)[1]


def parse(text: str) -> Verdict | None:
    """The verdict in a judge's text, None where there is none, as :func:`read_verdict` reads it."""
    return read_verdict(text)[0]


def read_verdict(text: str) -> tuple[Verdict | None, str]:
    """The verdict in a judge's text; None and why where there is none.

    A verdict is a line that holds it alone, or says that it is the verdict; it may also stand at the end of the last
    line, behind a colon or a whole sentence. What is thought or code is not read, nor what is an answer's, an example,
    refused or hypothetical by the words before it, in its line or in one with a colon that leads to it. A line that
    names several verdicts is none, and verdicts that contradict each other are none.
    """
    said = without_thought(text)
    if said is None:
        return None, "cut off"
    lines = list(_lines(said))
    last = next((line for line in reversed(lines) if line and line.strip()), None)
    own = list(_own(lines))
    found = [line for line, words in own if _ALONE.fullmatch(line) or _DECLARES.fullmatch(words)]
    if own and own[-1][0] is last and _LEADS_TO_IT.fullmatch(own[-1][1]):
        found = [*found, last] if found else [line for line, words in own if _LEADS_TO_IT.fullmatch(words)]
    verdicts = {_VERDICTS[token.lower()] for line in found for token in _ANY.findall(line)}
    if len(verdicts) == 1:
        return verdicts.pop(), ""
    return None, "contradiction" if verdicts else "no verdict"


def _own(lines: Iterable[str | None]) -> Iterator[tuple[str, str]]:
    """The lines that end with one verdict, which is the judge's own, and the words before it."""
    is_quotation = has_begun = False
    for line in lines:
        if line is None:
            is_quotation = False
            continue
        match, number = _LINE.fullmatch(line), len(_ANY.findall(line))
        words = _plain(match[1] if match else line)
        if number:
            has_begun = True
            if match and number == 1 and not is_quotation and not _is_anothers(words):
                yield line, words
        elif words:
            is_quotation, has_begun = words.endswith(":") and (is_quotation or _is_anothers(words)), False
        elif has_begun:  # a quotation goes on to the next empty line
            is_quotation = False


def _is_anothers(words: str) -> bool:
    """Whether a verdict behind these words is not the judge's own: "Answer A ends with:", "If length counts,"."""
    sentence = _SENTENCE_ENDS.split(words)[-1]
    if _CONDITION.match(sentence) or _IN_MARKS.fullmatch(sentence):
        return True
    *before, clause = _CLAUSE_ENDS.split(_REASON.sub("", sentence)[-_NEAR:])
    said = re.split("[:=]", clause.rstrip(":= "))[-1]
    return bool(_QUOTED.search(clause) or _DENIED.search(said) or any(map(_SPEAKS.fullmatch, before)))


def _plain(text: str) -> str:
    """A line without Markdown's marks, its heading's and its list's."""
    return re.sub(r"[*_`]", "", text).lstrip(" \t#-•").rstrip()


def _lines(text: str) -> Iterator[str | None]:
    """The lines that are the judge's own words; None for one of a block of code, or of a quotation."""
    fence = None
    for line in text.splitlines():
        opening = re.match(r"\s*(`{3,}|~{3,})", line)
        if fence is not None:
            fence = None if opening and opening[1].startswith(fence) else fence
            yield None
        elif opening:
            fence = opening[1]
            yield None
        else:
            yield None if line.lstrip().startswith(">") else line
