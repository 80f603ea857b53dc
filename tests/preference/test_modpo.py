import pytest
import torch
from pydantic import ValidationError

from ctwa.errors import CtwaError
from ctwa.preference.modpo import Modpo, ModpoConfig


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


# beta, h, differences of the margin rewards, weights, z, loss: computed independently of this project.
GOLDENS = [
    (0.1, 1.0, [0.5], [0.8, 0.2], 0.0, 0.693147180560),
    (0.3, 2.0, [-1.0], [0.5, 0.5], 2.2, 0.105083319769),
    (0.3, -1.0, [0.2, 0.4], [0.6, 0.3, 0.1], -0.666666666667, 1.081036753519),
]


@pytest.mark.parametrize(("beta", "h", "differences", "weights", "z", "loss"), GOLDENS)
def test_goldens(beta, h, differences, weights, z, loss):
    names = ["trained", "second", "third"][: len(weights)]
    modpo = Modpo(ModpoConfig(objective="trained"), dict(zip(names, weights, strict=True)))
    rewards = {name: tensor(value) for name, value in zip(names[1:], differences, strict=True)}
    margin_P = beta * tensor(h)
    assert float(modpo.adjust(margin_P, rewards)[0]) == pytest.approx(z, abs=1e-9)
    assert float(modpo.losses(margin_P, rewards)[0]) == pytest.approx(loss, abs=1e-9)


def test_one_objective_is_dpo():
    modpo = Modpo(ModpoConfig(objective="helpful"), {"helpful": 0.3})
    margin_P = torch.tensor([0.5, -2.0, 0.0])
    assert torch.equal(modpo.losses(margin_P, {}), -torch.nn.functional.logsigmoid(margin_P))


def test_an_objective_of_weight_0_needs_no_rewards():
    modpo = Modpo(ModpoConfig(objective="helpful"), {"helpful": 2.0, "harmless": 0.0})
    assert torch.equal(modpo.adjust(tensor(0.5), {}), tensor(0.5))


def test_the_least_loss_is_where_margin_and_rewards_are_what_the_preference_says():
    """A preference that holds with probability .8: margin = w log 4 + w_2 reward difference."""
    modpo = Modpo(ModpoConfig(objective="a"), {"a": 0.6, "b": 0.4})
    margin_P = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([margin_P], tolerance_grad=1e-12, tolerance_change=1e-14, max_iter=100)

    def closure():
        optimizer.zero_grad()
        right, wrong = modpo.losses(margin_P, {"b": tensor(0.7)}), modpo.losses(-margin_P, {"b": tensor(-0.7)})
        loss = (0.8 * right + 0.2 * wrong).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = 0.6 * float(tensor(4.0).log()) + 0.4 * 0.7
    assert float(margin_P.detach()) == pytest.approx(expected, abs=1e-6)


def test_the_gradient_is_that_of_the_policy_alone():
    margin_P = torch.tensor([0.4], requires_grad=True)
    Modpo(ModpoConfig(objective="a"), {"a": 0.5, "b": 0.5}).losses(
        margin_P, {"b": torch.tensor([0.4])}
    ).sum().backward()
    z = (0.4 - 0.5 * 0.4) * 2
    assert float(margin_P.grad) == pytest.approx(-2 * float(torch.sigmoid(torch.tensor(-z))))


def test_the_scale_is_capped():
    margin_P, rewards = tensor(1.0), {"b": tensor(0.5)}
    for weight, scale in ((0.5, 2.0), (0.05, 20.0), (0.01, 20.0), (0.0, 20.0)):
        modpo = Modpo(ModpoConfig(objective="a"), {"a": weight, "b": 1 - weight})
        assert float(modpo.adjust(margin_P, rewards)) == pytest.approx(scale * (1 - (1 - weight) * 0.5))


def test_rewards_of_another_precision_follow_the_margin():
    modpo = Modpo(ModpoConfig(objective="a"), {"a": 0.5, "b": 0.5})
    assert modpo.adjust(torch.tensor([1.0]), {"b": tensor(0.5)}).dtype == torch.float32


def test_mistakes_are_named():
    with pytest.raises(CtwaError, match="'helpfull', which is none of \\['harmless', 'helpful'\\]"):
        Modpo(ModpoConfig(objective="helpfull"), {"helpful": 1.0, "harmless": 1.0})
    with pytest.raises(CtwaError, match="no margin rewards of 'b'"):
        Modpo(ModpoConfig(objective="a"), {"a": 1.0, "b": 1.0}).adjust(tensor(1.0), {})
    with pytest.raises(CtwaError, match="'b' has the weight -1"):
        Modpo(ModpoConfig(objective="a"), {"a": 1.0, "b": -1.0})
    with pytest.raises(ValidationError, match="largest_scale"):
        ModpoConfig(objective="a", largest_scale=0.5)


def test_the_gradient_is_that_of_the_trained_margin_alone():
    modpo = Modpo(ModpoConfig(objective="a"), {"a": 0.5, "b": 0.5})
    margin_P, margin_policy_P = tensor(0.5, -1.0).requires_grad_(), tensor(0.2, 0.3).requires_grad_()
    modpo.losses(margin_P, {"b": margin_policy_P * 2}).sum().backward()
    assert margin_P.grad is not None
    assert margin_policy_P.grad is None
