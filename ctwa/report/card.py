"""A model card: what a checkpoint was trained for, and what came of each objective."""

from __future__ import annotations

from ctwa import metrics as key_of
from ctwa.report.markdown import base_name, plain, table
from ctwa.report.trace import RunTrace
from ctwa.run.text import number


def model_card(run: RunTrace, step: int, *, is_adapter: bool = False, template: str | None = None) -> str:
    """The README.md of a checkpoint's model, with the metadata that model hubs read.

    Args:
        run: what trained it; one without run.json is described by its records alone.
        step: after which it was saved. Results are those of the last validation up to it.
        is_adapter: whether it is a LoRA adapter alone.
        template: how its prompts are told weights of the objectives; None where they are told none.
    """
    info = run.info
    front = [f"library_name: {'peft' if is_adapter else 'transformers'}", "tags: [ctwa, multi-objective]"]
    what = "A LoRA adapter" if is_adapter else "A model"
    began = [f"{what} that was fine-tuned for {len(run.objectives)} objectives by `{run.method}`, with ctwa"]
    if info is not None:
        base = base_name(info.model)
        if base == info.model:
            front.append(f"base_model: {base}")
        began.append(f" {info.versions.get('ctwa', '')}".rstrip())
        began.append(f", from `{base}`")
    began.append(f"; step {step}" + (f" of {info.num_steps}, seed {info.seed}" if info is not None else "") + ".")
    lines = ["---", *front, "---", "", "# " + run.folder.path.resolve().name, "", "".join(began), ""]
    lines += [f"Results: {run.result}.", ""]
    lines.append(table(("objective", "weight", "before", "after"), [_row(run, name, step) for name in run.objectives]))
    if template is not None:
        lines += ["", "It reads in its prompt how to weigh the objectives. The user's last message is to be:", ""]
        lines += ["```text", template, "```"]
    if info is not None and info.versions:
        versions = ", ".join(f"{name} {which}" for name, which in sorted(info.versions.items()))
        lines += ["", f"Versions: {versions}."]
    return "\n".join(lines) + "\n"


def _row(run: RunTrace, name: str, step: int) -> tuple[str, ...]:
    points = [value for at, value in run.results(name) if at <= step]
    before, after = (number(points[0]), number(points[-1])) if points else ("-", "-")
    weights = [value for at, value in run.series(key_of.weight(name)) if at <= step]
    first = run.info.objectives[name].weight if run.info is not None and name in run.info.objectives else None
    if first is not None:
        weights.insert(0, first)
    weight = " to ".join(dict.fromkeys(number(value) for value in (*weights[:1], *weights[-1:]))) or "-"
    return plain(name), weight, before, after
