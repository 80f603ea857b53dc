"""Rows of preference data, and one objective's pairs of a file of them."""

from ctwa.preference import PreferenceSource, load_preferences


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def row(index=0, **changes):
    return {"prompt": f"Question {index}?", "chosen": f"Yes {index}.", "rejected": f"No {index}."} | changes


def load(path, **options):
    """One objective's pairs."""
    (pair_set,) = load_preferences({"a": PreferenceSource(data=path, **options)})
    return pair_set
