"""The methods of a study as settings of a run, and the static weights that stand beside them as controls."""

from __future__ import annotations

OBJECTIVES = ("accuracy", "conciseness", "clarity")
STATIC = {"static-250": 0.25, "static-375": 0.375, "static-450": 0.45, "static-600": 0.6}
CONTROLS = {name: (first, (1 - first) / 2, (1 - first) / 2) for name, first in STATIC.items()}
"""The weight of accuracy, and of each of the others what is left."""
OTHERS = {
    # Equal weights, where conciseness and clarity count only in a correct completion.
    "gated": [
        "method=linear",
        *(f"+ctwa.objectives.{name}.gate={{by:accuracy,at_least:1}}" for name in OBJECTIVES[1:]),
    ],
    "probe-slope": ["method=probe", "ctwa.method.signal=slope"],
}
"""What else is compared and is no method by its name."""


def settings_of(method: str, steps: int) -> list[str]:
    """What a method needs beside its name; for the controls, their weights; what is after a @, as options.

    ``product@power=0.5,offset=0.01`` is `method=product` with these two options; an option with a dot in its name is a
    setting of ctwa's, as in ``mgda@gradients.gram=cross_fitted``.
    """
    if "@" in method:
        plain, _, options = method.partition("@")
        places = ["ctwa." if "." in option.partition("=")[0] else "ctwa.method." for option in options.split(",")]
        named = [f"{place}{option}" for place, option in zip(places, options.split(","), strict=True)]
        return [*settings_of(plain, steps), *named]
    if method in CONTROLS:
        weights = zip(OBJECTIVES, CONTROLS[method], strict=True)
        return ["method=linear", *(f"ctwa.objectives.{name}.weight={weight}" for name, weight in weights)]
    if method in OTHERS:
        return OTHERS[method]
    own = {
        "cgpo": ["ctwa.method.constraints={accuracy:1}"],
        "lagrangian": ["ctwa.method.objective=accuracy", "ctwa.method.targets={conciseness:0.9,clarity:0.9}"],
        "schedule": [
            "ctwa.method.points=[{step:0,weights:{accuracy:0.5,conciseness:0.25,clarity:0.25}},"
            f"{{step:{steps},weights:{{accuracy:0.333,conciseness:0.333,clarity:0.334}}}}]"
        ],
        "torchjd": ["ctwa.method.weighting=AlignedMTL"],
    }
    return [f"method={method}", *own.get(method, [])]
