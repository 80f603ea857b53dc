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
    ("config", "config_class", "scalarizer_class", "targets"),
    [
        ({"type": "linear"}, LinearConfig, Linear, None),
        ({"type": "ctwa"}, CtwaConfig, CTWA, TARGETS),
    ],
)
def test_the_type_chooses_the_method(config, config_class, scalarizer_class, targets):
    parsed = CONFIG.validate_python(config)
    assert type(parsed) is config_class
    scalarizer = build_scalarizer(parsed, WEIGHTS, targets=targets, scale_invariant=True)
    assert type(scalarizer) is scalarizer_class
    assert scalarizer.weights == WEIGHTS
    assert scalarizer.state_dict()["method"] == config["type"]


@pytest.mark.parametrize(("written", "read"), [("auto", "auto"), ("on", True), ("off", False), (True, True)])
def test_renormalize_as_yaml_reads_it(written, read):
    assert CtwaConfig(renormalize=written).renormalize is read


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "lagrange"}, "lagrange"),
        ({"type": "linear", "eta": 0.1}, "eta"),
        ({"type": "ctwa", "targets": TARGETS}, r"write ctwa\.objectives\.NAME\.target"),
        ({"type": "ctwa", "etaa": 0.1}, "etaa"),
        ({"type": "ctwa", "eta": -1}, "eta"),
        ({"type": "ctwa", "eta": math.inf}, "eta"),
        ({"type": "ctwa", "tau": 0}, "tau"),
        ({"type": "ctwa", "ddof": 2}, "ddof"),
        ({"type": "ctwa", "weight_floor": 1.0}, "weight_floor"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ValidationError, match=message):
        CONFIG.validate_python(config)


def test_published_code_has_its_gate():
    config = CtwaConfig(preset="published-code", gate_targets={"accuracy": 1.0, "clarity": 0.95})
    assert build_scalarizer(config, WEIGHTS, targets=TARGETS, scale_invariant=True).weights == WEIGHTS
