import math

import pytest
from pydantic import TypeAdapter, ValidationError

from ctwa.scalarizers import MethodConfig, build_scalarizer
from ctwa.scalarizers.ctwa import CTWA, CtwaConfig
from ctwa.scalarizers.linear import Linear, LinearConfig

TARGETS = {"accuracy": 0.15, "clarity": 0.08}
WEIGHTS = {"accuracy": 0.5, "clarity": 0.5}
CONFIG: TypeAdapter = TypeAdapter(MethodConfig)


@pytest.mark.parametrize(
    ("config", "config_class", "scalarizer_class"),
    [
        ({"type": "linear"}, LinearConfig, Linear),
        ({"type": "ctwa", "targets": TARGETS}, CtwaConfig, CTWA),
    ],
)
def test_the_type_chooses_the_method(config, config_class, scalarizer_class):
    parsed = CONFIG.validate_python(config)
    assert type(parsed) is config_class
    scalarizer = build_scalarizer(parsed, WEIGHTS, scale_invariant=True)
    assert type(scalarizer) is scalarizer_class
    assert scalarizer.weights == WEIGHTS
    assert scalarizer.state_dict()["method"] == config["type"]


@pytest.mark.parametrize(("written", "read"), [("auto", "auto"), ("on", True), ("off", False), (True, True)])
def test_renormalize_as_yaml_reads_it(written, read):
    assert CtwaConfig(targets=TARGETS, renormalize=written).renormalize is read


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "lagrange"}, "lagrange"),
        ({"type": "linear", "eta": 0.1}, "eta"),
        ({"type": "ctwa"}, "targets"),
        ({"type": "ctwa", "targets": TARGETS, "etaa": 0.1}, "etaa"),
        ({"type": "ctwa", "targets": TARGETS | {"clarity": math.nan}}, "clarity"),
        ({"type": "ctwa", "targets": TARGETS, "eta": -1}, "eta"),
        ({"type": "ctwa", "targets": TARGETS, "eta": math.inf}, "eta"),
        ({"type": "ctwa", "targets": TARGETS, "tau": 0}, "tau"),
        ({"type": "ctwa", "targets": TARGETS, "ddof": 2}, "ddof"),
        ({"type": "ctwa", "targets": TARGETS, "weight_floor": 1.0}, "weight_floor"),
        (
            {"type": "ctwa", "targets": TARGETS, "gate_targets": {"style": 0.9}},
            r"\['style'\], which are not objectives",
        ),
        ({"type": "ctwa", "targets": TARGETS, "preset": "published-code"}, "add gate_targets"),
        (
            {"type": "ctwa", "targets": TARGETS, "preset": "published-code", "gate_targets": {"accuracy": 1.0}},
            "gates every objective",
        ),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ValidationError, match=message):
        CONFIG.validate_python(config)


def test_published_code_has_its_gate():
    config = CtwaConfig(targets=TARGETS, preset="published-code", gate_targets={"accuracy": 1.0, "clarity": 0.95})
    assert build_scalarizer(config, WEIGHTS, scale_invariant=True).weights == WEIGHTS
