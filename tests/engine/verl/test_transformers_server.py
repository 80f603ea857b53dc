"""The server of the transformers rollout, on an untrained model made on the spot: no verl, no Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForCausalLM

from ctwa.engine.verl.rollout import transformers_server
from ctwa.engine.verl.rollout.transformers_server import TransformersServer, WeightBytes, weight_bytes
from ctwa.models.attention import SHARED_KEYS
from ctwa.models.decoding import Generated
from tests.models.models import PROMPTS, SAMPLING, SEEDS, build, generate


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Qwen2ForCausalLM]:
    model = build(tied=request.param)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder, model


def serve(folder: Path, *, max_length: int = 32, max_rows: int = 64) -> TransformersServer:
    return TransformersServer(str(folder), "float32", max_length, max_rows, trust_remote_code=False)


def sent(weights: dict[str, torch.Tensor]) -> dict[str, WeightBytes]:
    """As the trainer sends them, and Ray hands them on: to be read, not written."""
    found = {name: weight_bytes(tensor) for name, tensor in weights.items()}
    for array, _ in found.values():
        array.flags.writeable = False
    return found


def completed(server: TransformersServer) -> list[Generated]:
    """All completions of a server, whichever ended first."""
    by_place = dict(pair for pairs in server.generate(PROMPTS, SEEDS, SAMPLING) for pair in pairs)
    return [by_place[place] for place in range(len(PROMPTS))]


class TestServer:
    def test_it_generates_as_the_model_it_loaded(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        folder, model = saved

        assert completed(serve(folder)) == generate(model)

    def test_a_long_batch_is_cut_into_pieces(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        folder, model = saved
        pieces = completed(serve(folder, max_rows=4))

        apart = generate(model, PROMPTS[:4], SEEDS[:4]) + generate(model, PROMPTS[4:], SEEDS[4:])
        assert [piece.token_ids for piece in pieces] == [each.token_ids for each in apart]
        # On some processors the product of a small batch is rounded by where its weights lie in memory.
        for piece, each in zip(pieces, apart, strict=True):
            assert piece.log_probs == pytest.approx(each.log_probs, abs=1e-5)

    def test_a_completion_stays_within_the_context(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        completions = completed(serve(saved[0], max_length=8))

        assert max(len(completion.token_ids) for completion in completions) == 8 - max(map(len, PROMPTS))

    def test_a_prompt_that_fills_the_context_is_refused(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        with pytest.raises(ValueError, match="a prompt of 5 tokens leaves no room in a context of 5"):
            completed(serve(saved[0], max_length=5))

    def test_new_weights_are_used_at_once(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        folder, model = saved
        updated = build(seed=1, tied=model.config.tie_word_embeddings)
        server = serve(folder)
        server.load_weights(sent(dict(updated.named_parameters())))

        assert completed(server) == generate(updated)
        assert completed(server) != generate(model)

    @pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
    def test_a_large_models_weights_are_packed_and_its_query_heads_share_keys(
        self, saved: tuple[Path, Qwen2ForCausalLM], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, model = saved
        monkeypatch.setattr(transformers_server, "is_small", lambda _: False)
        monkeypatch.setattr(transformers_server, "prefers_onednn", lambda: True)
        updated = build(seed=1, tied=model.config.tie_word_embeddings)
        server = serve(folder)
        assert server._model.config._attn_implementation == SHARED_KEYS
        for now in (model, updated):
            server.load_weights(sent(now.state_dict()))

            completions, expected = completed(server), generate(now)
            assert [each.token_ids for each in completions] == [each.token_ids for each in expected]
            for each, other in zip(completions, expected, strict=True):
                assert each.log_probs == pytest.approx(other.log_probs, abs=1e-5)

    def test_tied_weights_may_be_sent_under_both_names(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        """verl sends a state dict, which has the shared tensor twice."""
        folder, model = saved
        updated = build(seed=1, tied=model.config.tie_word_embeddings)
        server = serve(folder)
        server.load_weights(sent(updated.state_dict()))

        assert completed(server) == generate(updated)

    def test_a_parameter_that_was_not_sent_is_named(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        folder, model = saved
        weights = dict(model.named_parameters())
        del weights["model.norm.weight"]

        with pytest.raises(KeyError, match=r"the trainer sent no weights for \['model\.norm\.weight'\]"):
            serve(folder).load_weights(sent(weights))

    def test_a_parameter_the_model_does_not_have_is_named(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        folder, model = saved

        with pytest.raises(KeyError, match=r"model\.layers\.9\.norm"):
            serve(folder).load_weights(sent({**dict(model.named_parameters()), "model.layers.9.norm": torch.zeros(1)}))

    def test_a_parameter_of_another_shape_is_refused(self, saved: tuple[Path, Qwen2ForCausalLM]) -> None:
        folder, model = saved

        with pytest.raises(RuntimeError, match="size"):
            serve(folder).load_weights(sent({**dict(model.named_parameters()), "model.norm.weight": torch.zeros(7)}))

    def test_a_models_own_sampling_habits_do_not_bend_the_distribution(
        self, saved: tuple[Path, Qwen2ForCausalLM]
    ) -> None:
        """Instruct models come with a repetition penalty, top-k and a temperature in their generation config."""
        folder, model = saved
        path = folder / "generation_config.json"
        habits = {"repetition_penalty": 1.5, "temperature": 0.3, "top_k": 2, "top_p": 0.5, "do_sample": True}
        path.write_text(json.dumps(json.loads(path.read_text()) | habits))

        assert completed(serve(folder)) == generate(model)
