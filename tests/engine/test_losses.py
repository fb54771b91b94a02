"""The numbers that a step minimises."""

import numpy as np
import pytest
import torch

from unfreeze.engine.losses import (
    TEMPERATURE,
    Mixed,
    batch_weight,
    cross_entropy,
    draw_mix,
    pair_loss,
)
from unfreeze.heads.weights import row_log_loss

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.5, 0.1, -1.0], [0.0, 3.0, 0.0], [1.0, 1.0, 1.0]])
Y = torch.tensor([0, 2, 1, 1])
LOG = torch.log_softmax(LOGITS.double(), dim=1)


def test_class_weights_give_the_weighted_mean():
    weight = torch.tensor([1.0, 2.0, 5.0])
    loss = cross_entropy(LOGITS, Y, weight=weight, smoothing=0.0) / batch_weight(Y, weight)
    wanted = -(LOG[0, 0] + 5 * LOG[1, 2] + 2 * LOG[2, 1] + 2 * LOG[3, 1]) / 10
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)


def test_label_smoothing_spreads_its_share_over_all_classes():
    loss = cross_entropy(LOGITS, Y, weight=None, smoothing=0.3) / batch_weight(Y, None)
    target = torch.full((4, 3), 0.1, dtype=torch.float64)
    target[torch.arange(4), Y] += 0.7
    assert float(loss) == pytest.approx(float(-(target * LOG).sum(1).mean()), rel=1e-6)


def test_smoothed_rows_weigh_as_their_own_class_does():
    weight = torch.tensor([1.0, 2.0, 50.0])
    loss = cross_entropy(LOGITS, Y, weight=weight, smoothing=0.3) / batch_weight(Y, weight)
    target = torch.full((4, 3), 0.1, dtype=torch.float64)
    target[torch.arange(4), Y] += 0.7
    rows = -(target * LOG).sum(1) * weight[Y]
    assert float(loss) == pytest.approx(float(rows.sum() / weight[Y].sum()), rel=1e-6)


def test_beside_a_rare_class_a_smoothed_row_is_still_drawn_to_its_own():
    logits, weight = torch.zeros(1, 2, requires_grad=True), torch.tensor([0.5, 50.0])
    loss = cross_entropy(logits, torch.tensor([0]), weight=weight, smoothing=0.1)
    loss.backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]


def test_mixup_mixes_the_targets_in_the_share_of_the_inputs():
    other = Y[torch.tensor([1, 0, 3, 2])]
    share = torch.tensor([0.8, 0.5, 1.0, 0.6])
    loss = cross_entropy(LOGITS, Y, weight=None, smoothing=0.0, mixed=Mixed(share, other))
    rows = torch.arange(4)
    wanted = -(share * LOG[rows, Y] + (1 - share) * LOG[rows, other]).sum()
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)


def test_the_mix_is_a_function_of_seed_and_step_and_a_row_keeps_the_larger_share():
    mixes = [draw_mix(0.4, seed=1, step=step, rows=6) for step in range(50)]
    again = draw_mix(0.4, seed=1, step=7, rows=6)
    assert np.array_equal(again.share, mixes[7].share)
    assert np.array_equal(again.partner, mixes[7].partner)
    shares = np.concatenate([mix.share for mix in mixes])
    assert ((shares >= 0.5) & (shares <= 1)).all()
    assert all(sorted(mix.partner) == list(range(6)) for mix in mixes)
    # Each row of each batch has its own.
    assert len(np.unique(shares)) == 300
    assert draw_mix(0.0, seed=1, step=0, rows=6) is None


def test_parts_of_a_batch_add_up_to_the_whole():
    weight = torch.tensor([1.0, 2.0, 5.0])
    whole = cross_entropy(LOGITS, Y, weight=weight, smoothing=0.1)
    parts = sum(cross_entropy(LOGITS[i : i + 2], Y[i : i + 2], weight=weight, smoothing=0.1) for i in (0, 2))
    assert float(parts) == pytest.approx(float(whole), rel=1e-6)


def test_the_losses_of_perfect_answers_have_no_sign():
    assert [str(loss) for loss in row_log_loss(np.diag([1e4, 1e4]), np.arange(2)).tolist()] == ["0.0", "0.0"]


def test_the_loss_of_a_row_is_that_of_its_class():
    losses = row_log_loss(LOGITS.numpy().astype(np.float64), Y.numpy())
    assert losses == pytest.approx((-LOG[torch.arange(4), Y]).tolist(), rel=1e-9)
    assert row_log_loss(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx([1e4])


def test_pairs_of_a_class_are_weighed_against_all_others_of_the_batch():
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 0])
    unit = features / features.norm(dim=1, keepdim=True)
    wanted = 0.0
    for row in range(4):
        others = [other for other in range(4) if other != row]
        shares = torch.tensor([float(unit[row] @ unit[other]) / TEMPERATURE for other in others]).log_softmax(
            0
        )
        alike = [shares[place] for place, other in enumerate(others) if y[other] == y[row]]
        wanted -= sum(map(float, alike)) / len(alike) if alike else 0.0
    assert float(pair_loss(features, y)) == pytest.approx(wanted, rel=1e-5)


def test_a_batch_without_pairs_moves_nothing():
    # Nor one of a single class: its rows would come together with whatever they have in common with the others.
    for y in (torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([1, 1, 1])):
        features = torch.randn(len(y), 3, requires_grad=True)
        loss = pair_loss(features, y)
        loss.backward()
        assert float(loss.detach()) == 0
        assert torch.equal(features.grad, torch.zeros_like(features))
