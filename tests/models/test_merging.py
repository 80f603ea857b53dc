"""Means of models and of adapters: their numbers."""

import json
from pathlib import Path

import pytest
import torch

from ctwa.errors import CtwaError
from tests.models.soups import DOWN, UP, WEIGHTS, merge_adapters, merge_models, product, random_adapter, random_model

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "constrained_alignment.json").read_text())


class TestModels:
    def test_golden(self):
        golden = GOLDENS["B4_soup"]
        names = ["a", "b"]
        models = {name: {"x": torch.tensor(theta).double()} for name, theta in zip(names, golden["theta"], strict=True)}
        merged = merge_models(models, dict(zip(names, golden["w"], strict=True)))
        assert merged["x"].tolist() == pytest.approx(golden["out"], abs=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_one_with_all_the_weight_and_models_that_agree_are_themselves_to_the_bit(self, dtype):
        models = {"helpful": random_model(0, dtype), "harmless": random_model(1, dtype)}
        alone = merge_models(models, {"helpful": 0.0, "harmless": 0.2})
        same = merge_models(dict.fromkeys(WEIGHTS, models["helpful"]), WEIGHTS)
        for key, tensor in models["harmless"].items():
            assert torch.equal(alone[key], tensor)
            assert alone[key].dtype == dtype
            # float64 has no wider type to sum in.
            tolerance = 1e-15 if dtype == torch.float64 else 0
            torch.testing.assert_close(same[key], models["helpful"][key], rtol=tolerance, atol=0)

    def test_rounding_happens_once(self):
        models = {name: random_model(seed, torch.bfloat16) for seed, name in enumerate(WEIGHTS)}
        merged = merge_models(models, {"helpful": 3, "harmless": 7})
        for key in merged:
            exact = 0.3 * models["helpful"][key].double() + 0.7 * models["harmless"][key].double()
            assert torch.equal(merged[key], exact.bfloat16())

    def test_the_order_of_the_models_changes_no_bit(self):
        models = {name: random_model(seed) for seed, name in enumerate("abc")}
        weights = {"a": 0.1, "b": 0.2, "c": 0.3}
        backwards = merge_models(dict(reversed(models.items())), dict(reversed(weights.items())))
        for key, tensor in merge_models(models, weights).items():
            assert torch.equal(backwards[key], tensor)

    def test_integers_have_to_agree(self):
        first, second = random_model(0), random_model(1)
        first["steps"], second["steps"] = torch.tensor(3), torch.tensor(3)
        models = {"helpful": first, "harmless": second}
        assert merge_models(models, WEIGHTS)["steps"] == 3
        second["steps"] = torch.tensor(4)
        with pytest.raises(CtwaError, match=r"steps holds torch\.int64 and differs"):
            merge_models(models, WEIGHTS)

    def test_models_of_different_architectures_are_refused(self):
        first, second = random_model(0), random_model(1)
        second["bias"] = torch.zeros(4)
        with pytest.raises(CtwaError, match="differ in 1 parameters, the first of them bias"):
            merge_models({"helpful": first, "harmless": second}, WEIGHTS)
        del second["bias"]
        second["norm.weight"] = torch.zeros(5)
        with pytest.raises(CtwaError, match=r"norm.weight is \(5,\) .*for 'harmless' and \(4,\) .* for 'helpful'"):
            merge_models({"helpful": first, "harmless": second}, WEIGHTS)

    def test_weights_that_do_not_fit_are_refused(self):
        with pytest.raises(CtwaError, match=r"models of \['helpful'\] and weights of \['helpfull'\]"):
            merge_models({"helpful": random_model(0)}, {"helpfull": 1.0})
        with pytest.raises(CtwaError, match="weight above 0"):
            merge_models({"helpful": random_model(0)}, {"helpful": 0.0})


class TestAdapters:
    def test_products_are_merged_and_not_factors(self):
        """B = 1 and 3, A = 2 and 4: the mean of the products is 7, the product of the means 6."""
        adapters = {
            name: {UP: torch.tensor([[b]]).double(), DOWN: torch.tensor([[a]]).double()}
            for name, b, a in (("a", 1, 2), ("b", 3, 4))
        }
        merged = merge_adapters(adapters, {"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 1.0})
        assert product(merged).item() == pytest.approx(7, abs=1e-9)

    @pytest.mark.parametrize("ranks", [(2, 2), (1, 4)])
    @pytest.mark.parametrize("scales", [(1.0, 1.0), (2.0, 0.5)])
    def test_it_is_the_mean_of_the_products(self, ranks, scales):
        adapters = {name: random_adapter(seed, ranks[seed]) for seed, name in enumerate(WEIGHTS)}
        merged = merge_adapters(adapters, WEIGHTS, dict(zip(WEIGHTS, scales, strict=True)))
        expected = 0.3 * product(adapters["helpful"], scales[0]) + 0.7 * product(adapters["harmless"], scales[1])
        torch.testing.assert_close(product(merged), expected, rtol=1e-12, atol=1e-12)
        assert merged[DOWN].shape == (sum(ranks), 6)
        assert merged[UP].shape == (5, sum(ranks))

    def test_it_is_the_soup_of_the_models_with_the_adapters_merged_in(self):
        generator = torch.Generator().manual_seed(9)
        base = torch.randn(5, 6, dtype=torch.float64, generator=generator)
        adapters = {name: random_adapter(seed, 3) for seed, name in enumerate(WEIGHTS)}
        scales = dict.fromkeys(WEIGHTS, 2.0)
        models = {name: {"q": base + product(adapter, 2.0)} for name, adapter in adapters.items()}
        soup = merge_models(models, WEIGHTS)["q"]
        torch.testing.assert_close(base + product(merge_adapters(adapters, WEIGHTS, scales)), soup)

    def test_low_precision_is_widened(self):
        adapters = {name: random_adapter(seed, 2, torch.bfloat16) for seed, name in enumerate(WEIGHTS)}
        merged = merge_adapters(adapters, WEIGHTS, dict.fromkeys(WEIGHTS, 2.0))
        assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
        expected = sum(WEIGHTS[name] * product(adapter, 2.0) for name, adapter in adapters.items())
        torch.testing.assert_close(product(merged), expected, rtol=1e-5, atol=1e-5)

    def test_modules_saved_whole_are_averaged(self):
        adapters = {name: random_adapter(seed, 2) for seed, name in enumerate(WEIGHTS)}
        for value, adapter in enumerate(adapters.values()):
            adapter["base_model.model.lm_head.weight"] = torch.full((3, 2), float(value))
        merged = merge_adapters(adapters, WEIGHTS, dict.fromkeys(WEIGHTS, 1.0))
        torch.testing.assert_close(merged["base_model.model.lm_head.weight"], torch.full((3, 2), 0.7))

    def test_adapters_of_other_shapes_are_refused(self):
        adapters = {name: random_adapter(seed, 2) for seed, name in enumerate(WEIGHTS)}
        adapters["harmless"][UP] = torch.zeros(7, 2, dtype=torch.float64)
        with pytest.raises(CtwaError, match=r"lora_B.weight is .* merge adapters of one base model"):
            merge_adapters(adapters, WEIGHTS, dict.fromkeys(WEIGHTS, 1.0))


@pytest.mark.parametrize("weights", [(1e308, 1e308), (1.7e308, 1e308, 0.0)])
def test_weights_too_large_to_add_up_are_refused(weights):
    models = {str(index): random_model(index) for index in range(len(weights))}
    with pytest.raises(CtwaError, match="only their ratios matter"):
        merge_models(models, dict(zip(models, weights, strict=True)))
