"""Format: is the response made of the tags that were asked for, each once, in their order, with something in them?"""

import re
from collections.abc import Sequence


def format_tags(response: str, tags: Sequence[str] = ("think", "answer"), begins_inside: bool = False) -> float:
    """1 for a response that is `<think>...</think> <answer>...</answer>` and nothing else, else 0.

    What stands between the tags is not looked at, but for a letter or a digit that has to be there.

    Args:
        response: the response.
        tags: names of the tags, in their order.
        begins_inside: the first tag was opened by the prompt, as some chat templates do.
    """
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    if begins_inside:
        response = marks[0] + response
    # Every mark once: one that is written again, or quoted, would leave open where the answer is.
    if any(response.count(mark) != 1 for mark in marks):
        return 0.0
    rest = response
    for number, mark in enumerate(marks):
        before, _, rest = rest.partition(mark)
        is_content = number % 2 == 1
        if is_content != any(character.isalnum() for character in before) or (not is_content and before.strip()):
            return 0.0
        if number < len(marks) - 1 and marks[number + 1] not in rest:
            return 0.0
    return float(not rest.strip())


def check_format_tags(tags: Sequence[str] = ("think",), begins_inside: bool = False) -> None:
    """Refuse what are no names of tags."""
    del begins_inside
    is_list = isinstance(tags, list | tuple) and all(isinstance(tag, str) for tag in tags)
    if not is_list or not tags or len(set(tags)) < len(tags):
        raise ValueError(f"tags={tags!r}: write a list of the tags' names, each once")
    if unfit := [tag for tag in tags if not re.fullmatch(r"[\w:.-]+", tag)]:
        raise ValueError(f"{unfit[0]!r} is no name of a tag: write it without < and >, e.g. think")
