"""What the doctor finds: facts with a verdict, what it means for a run, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import indent
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One fact.

    Attributes:
        topic: what was looked at.
        level: ``fail`` where a run would fail, ``warn`` where one may, or is slower than it need be.
        found: the fact, in words.
        means: what it means for a run; empty where it is fine.
        do: what to do about it.
    """

    topic: str
    level: Level
    found: str
    means: str = ""
    do: str = ""


@dataclass(frozen=True)
class Needs:
    """What a run needs of the machine.

    Attributes:
        device: ``cpu`` or ``cuda``.
        vllm: whether it completes prompts with vLLM.
        flash_attn: whether it computes attention with flash-attn.
        run: the folder that it will write.
    """

    device: str = "cpu"
    vllm: bool = False
    flash_attn: bool = False
    run: str = "runs"


def text(findings: Sequence[Finding]) -> str:
    """The findings for people, and how many of them are no good."""
    width = max(len(each.topic) for each in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.level:<4}  {each.topic:<{width}}  {each.found}")
        lines += [indent(line, " " * (width + 8)) for line in (each.means, each.do and f"-> {each.do}") if line]
    counts = {level: sum(each.level == level for each in findings) for level in ("fail", "warn")}
    verdict = "a run would fail" if counts["fail"] else "nothing that would make a run fail was found"
    return "\n".join([*lines, "", f"{verdict}: {counts['fail']} fail, {counts['warn']} warn"])


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs."""
    return {"fails": any(each.level == "fail" for each in findings), "findings": [asdict(each) for each in findings]}
