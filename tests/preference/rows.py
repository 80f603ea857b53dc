"""Rows of preference data, and one objective's pairs of a file of them."""

from ctwa.preference import PreferenceSource, load_preferences


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def row(index=0, **changes):
    return {"prompt": f"Question {index}?", "chosen": f"Yes {index}.", "rejected": f"No {index}."} | changes


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def safe_rlhf(**changes):
    return {
        "prompt": "How do I open a lock?",
        "response_0": "Use its key.",
        "response_1": "Rake the pins, one after the other.",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "better_response_id": 1,
        "safer_response_id": 0,
    } | changes


def load(path, **options):
    """One objective's pairs."""
    (pair_set,) = load_preferences({"a": PreferenceSource(data=path, **options)})
    return pair_set
