import pytest
from pydantic import TypeAdapter, ValidationError

from ctwa.aggregators import AGGREGATORS, AggregatorConfig

CONFIG: TypeAdapter = TypeAdapter(AggregatorConfig)


@pytest.mark.parametrize("method", sorted(AGGREGATORS))
def test_the_type_chooses_the_method(make, method):
    aggregator = make(method, {"accuracy": 1.0})
    assert type(aggregator) is AGGREGATORS[method]
    assert aggregator.state_dict()["method"] == method


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "nash"}, "nash"),
        ({"type": "mgda", "epsilon": 1e-3}, "epsilon"),
        ({"type": "dynamic", "mu": float("inf")}, "mu"),
        ({"type": "gradnorm", "eta": float("nan")}, "eta"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ValidationError, match=message):
        CONFIG.validate_python(config)
