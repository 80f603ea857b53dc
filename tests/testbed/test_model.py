import torch

from ctwa.testbed.model import build_model, model_config


def test_parameter_count():
    model = build_model(0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 599_424
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_long_prompts_run():
    assert model_config().max_position_embeddings >= 2048
    with torch.no_grad():
        logits = build_model(0)(input_ids=torch.full((1, 2100), 3)).logits
    assert logits.isfinite().all()


def test_weights_come_from_the_seed_and_global_state_is_kept():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (build_model(seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert 0.019 < first["model.layers.0.mlp.up_proj.weight"].std() < 0.021
