import random

import pytest
import torch

from ctwa.testbed.presets import MIXTURE_C
from ctwa.testbed.sft import SftConfig, draw_batch, learning_rate, train_base
from ctwa.testbed.tasks import Problem
from ctwa.testbed.tokenizer import VOCABULARY

CONFIG = SftConfig(num_steps=3, seed=5, mixture=MIXTURE_C, batch_size=16)


def test_learning_rate_warms_up_and_decays_to_five_percent():
    assert learning_rate(CONFIG, 0) == pytest.approx(2e-5)
    assert learning_rate(CONFIG, 99) == pytest.approx(2e-3)
    assert learning_rate(CONFIG, 450) == pytest.approx(2e-3 * 0.525)  # half of the cosine
    assert learning_rate(CONFIG, 800) == pytest.approx(1e-4)


def test_labels_are_the_responses():
    for ids_BT, labels_BT in draw_batch(random.Random(0), MIXTURE_C, 32):
        for ids_T, labels_T in zip(ids_BT.tolist(), labels_BT.tolist(), strict=True):
            words = [VOCABULARY[i] for i in ids_T]
            start, end = words.index("?") + 1, words.index("<eos>") + 1
            assert words[0] == "<bos>"
            assert labels_T[:start] == [-100] * start
            assert labels_T[start:end] == ids_T[start:end]
            assert set(labels_T[end:]) <= {-100}
            assert set(words[end:]) <= {"<pad>"}


def test_batches_hold_training_problems_only():
    for ids_BT, _ in draw_batch(random.Random(1), MIXTURE_C, 64):
        for ids_T in ids_BT.tolist():
            words = [VOCABULARY[i] for i in ids_T]
            chain = words[words.index(":") + 1 : words.index("?")]
            assert not Problem(tuple(map(int, chain[::2])), tuple(chain[1::2])).is_test


def test_slices_do_not_change_the_batch():
    whole = draw_batch(random.Random(2), MIXTURE_C, 16, slice_size=16)
    sliced = draw_batch(random.Random(2), MIXTURE_C, 16, slice_size=5)
    assert [len(ids_BT) for ids_BT, _ in sliced] == [5, 5, 5, 1]
    rows = [ids_T[ids_T != 0].tolist() for ids_BT, _ in sliced for ids_T in ids_BT]
    assert rows == [ids_T[ids_T != 0].tolist() for ids_T in whole[0][0]]


def test_mixture_is_respected():
    batch = draw_batch(random.Random(3), {"D": 1.0}, 16)
    assert all((labels_BT != -100).sum(1).eq(4).all() for _, labels_BT in batch)


def test_first_loss_is_the_token_mean_of_the_whole_batch():
    from ctwa.testbed.model import build_model

    losses = []
    train_base(SftConfig(num_steps=1, seed=5, mixture=MIXTURE_C), on_step=lambda _, loss: losses.append(loss))
    (ids_BT, labels_BT), *_ = draw_batch(random.Random("sft:5"), MIXTURE_C, 64, slice_size=64)
    expected = build_model(5)(input_ids=ids_BT, labels=labels_BT).loss.item()
    assert losses == [pytest.approx(expected, rel=1e-5)]


def test_training_is_bit_equal_from_the_seed_and_learns():
    def train(seed, num_steps=12):
        losses = []
        config = SftConfig(num_steps=num_steps, seed=seed, mixture={"D": 0.5, "h": 0.5}, batch_size=16, warmup_steps=4)
        model = train_base(config, on_step=lambda step, loss: losses.append((step, loss)))
        return model.state_dict(), losses

    threads, (first, losses) = torch.get_num_threads(), train(1)
    again, losses_again = train(1)
    other, _ = train(2, num_steps=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert losses == losses_again
    assert [step for step, _ in losses] == list(range(1, 13))
    assert losses[-1][1] < 0.7 * losses[0][1]
    assert not torch.equal(first["model.norm.weight"], other["model.norm.weight"])
    assert torch.get_num_threads() == threads
