from ctwa.run import ObjectiveInfo, RunInfo


def info(names: tuple[str, ...] = ("accuracy", "clarity"), **changes) -> RunInfo:
    fields = {
        "method": "ctwa",
        "objectives": {name: ObjectiveInfo(weight=0.5, target=0.1) for name in names},
        "num_steps": 4,
        "created": 0.0,
    }
    return RunInfo(**{**fields, **changes})


def step_metrics(**values: float) -> dict[str, float]:
    """Metrics of a step in which every objective has its mean, covariance and weight."""
    found: dict[str, float] = {"time/step": 2.0}
    for name, value in values.items():
        found |= {f"objective/{name}/mean": value, f"covariance/{name}": value / 10, f"weight/{name}": 0.5}
    return found
