"""What a judge's reply says: its verdict, or why it holds none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
# A verdict behind a whole sentence: "Both are right, A is shorter. [[A]]"
_AT_THE_END = re.compile(rf".*[.!?;,—–-]{_MARKS}{_TOKEN}{_MARKS}[.!]?{_MARKS}", re.IGNORECASE)

# What a judge says of its own verdict. All other words, and be it that a verdict is an example, is wrong, would be
# another's or stands in an answer, announce none.
_LEAD = (
    r"(?:(?:so|thus|hence|therefore|then|final(?:ly)?|overall|and|but|while|since|because|as|all in all"
    r"|in (?:conclusion|summary|short)|to (?:conclude|sum up))\b\s*)*"
)
_NOUN = (
    r"(?:(?:here|this|that)(?: is|['’]s) )?(?:(?:the|my|our) )?(?:(?:final|overall|own) )*"
    r"(?:verdict|judge?ment|decision|conclusion|winner|answer|choice|pick|rating|preference|result|vote"
    r"|(?:better|best) (?:answer|response|one))(?: (?:is|should be|goes to))?(?: as follows)?"
)
_CHOICE = (
    r"I(?:['’]ll)? (?:(?:therefore|thus|hence|will|must) )?"
    r"(?:choose|pick|prefer|select|vote(?: for)?|go with|say|conclude|declare)(?: (?:answer )?[AB])?"
)
_BETTER = (
    r"(?:(?:answer|response|assistant) )?(?:[AB]|both(?: answers)?|neither|they|it)"
    r"(?: wins|(?: is| are|['’]s) (?:(?!not\b)\w+ ){0,2}(?:better|best|good|right|correct|equal|tied?))\b[\w ]*"
)
_SAYS_SO = re.compile(rf"{_LEAD}(?:{_NOUN}|{_CHOICE})", re.IGNORECASE)
_LEADS_TO_IT = re.compile(rf"(?!$){_LEAD}(?:{_NOUN}|{_CHOICE}|{_BETTER})?", re.IGNORECASE)
_CONDITION = re.compile(r"(?:if|unless|had|were|suppos\w+|assum\w+)\b", re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"[.!?;][\"”)]*\s")
_CLAUSE_ENDS = re.compile(r",\s|—|\s[–-]\s")


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
    line, behind a whole sentence. A colon before it, or at the end of the line before, has to announce a verdict: what
    another colon leads to is a quotation or an example, or a second thought where it contradicts a verdict. What is
    thought, quoted or code is not read, a line that names several verdicts is none, and verdicts that contradict each
    other are none.
    """
    said = without_thought(text)
    if said is None:
        return None, "cut off"
    lines = [line for line in _lines(said) if line is None or line.strip()]
    own = [line for line in lines if line is not None]
    single = [line for line in own if len(_ANY.findall(line)) == 1]
    found = [*_alone(lines), *filter(_is_announced, single)]
    if single and single[-1] is own[-1] and _AT_THE_END.fullmatch(own[-1]):
        found.append(own[-1])
    if found:
        found += filter(_ALONE.fullmatch, own)
    verdicts = {_VERDICTS[token.lower()] for line in found for token in _ANY.findall(line)}
    if len(verdicts) == 1:
        return verdicts.pop(), ""
    return None, "contradiction" if verdicts else "no verdict"


def _alone(lines: Sequence[str | None]) -> Iterator[str]:
    """The lines that hold a verdict alone, but for those that a line before them leads to as something else."""
    introduction = ""
    for line in lines:
        if line is None or not _ALONE.fullmatch(line):
            introduction = _plain(line or "")
        elif not introduction.endswith(":") or _announces(introduction):
            yield line


def _is_announced(line: str) -> bool:
    """Whether a line with one verdict says before it that it is the verdict: "**Final verdict:** [[A]]"."""
    found = _LINE.fullmatch(line)
    return found is not None and _announces(_plain(found[1]))


def _announces(text: str) -> bool:
    """Whether words say that a verdict follows: "A is wrong, so I choose", "Final verdict:", "A is better:"."""
    sentence = _SENTENCE_ENDS.split(text)[-1]
    *before_colons, last = (part.strip() for part in re.split("[:=]", _CLAUSE_ENDS.split(sentence)[-1]))
    if _CONDITION.match(sentence) or not all(map(_LEADS_TO_IT.fullmatch, before_colons)):
        return False
    return bool(_SAYS_SO.fullmatch(last)) if last else bool(before_colons)


def _plain(text: str) -> str:
    """A line without Markdown's marks, its heading's and its list's."""
    return re.sub(r"[*_`]", "", text).strip(" \t#-•")


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
