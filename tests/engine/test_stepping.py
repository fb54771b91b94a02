"""What a step minimises, against the loss and its gradient written out by hand."""

import numpy as np
import pytest
import torch

from unfreeze.engine.losses import Mix
from unfreeze.plan import Phase, Plan

ROWS, CLASSES = 12, 3
ALPHA, SMOOTHING = 0.4, 0.3
CLASS_WEIGHT = np.array([1.0, 4.0, 0.25], np.float32)


def first_step(t, monkeypatch, *, class_weight=None, **settings):
    """Features and classes of a batch in its order, the head before its first step, the loss and the gradients."""
    backbone = t.toy("vit")
    task = t.task_of("vit", train=ROWS, val=0, class_weight=class_weight)
    # More rows of one class than of another, so that a weight of classes is no factor of the whole.
    task.train.y[:] = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    head, generator = t.head_of(backbone, CLASSES), torch.Generator().manual_seed(0)
    for value in head.parameters():
        value.data = torch.randn(value.shape, generator=generator)
    before = {name: value.detach().double().numpy().copy() for name, value in head.named_parameters()}
    gradients, step = {}, torch.optim.AdamW.step

    def note(self, *arguments):
        gradients.update({name: value.grad.double().numpy() for name, value in head.named_parameters()})
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    # The head alone on one batch of all rows: what it reads is frozen, and the epoch's loss is that of its one step.
    phase = Phase(name="head", epochs=1, head_rate=1e-3)
    plan = Plan(strategy="own", phases=(phase,), batch_size=ROWS, clip=0.0, **settings)
    result, _ = t.run(plan, backbone, task, head=head)
    (rows,) = task.train.inputs.batches(task.seed, 0, ROWS)
    with torch.no_grad():
        h = backbone.run(task.train.inputs.batch(rows, None)).h.double().numpy()
    return h, task.train.y[rows], before, result.history[0].train_loss, gradients


def by_hand(h, head, target, weight):
    """-Σ wᵢ Σₖ tᵢₖ log pᵢₖ / Σ wᵢ, and its gradients Σ wᵢ (pᵢ - tᵢ) hᵢᵀ / Σ wᵢ and Σ wᵢ (pᵢ - tᵢ) / Σ wᵢ."""
    logits = h @ head["weight"].T + head["bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    weight = weight / weight.sum()
    slope = weight[:, None] * (p - target)
    return -(weight[:, None] * target * np.log(p)).sum(), {"weight": slope.T @ h, "bias": slope.sum(0)}


def assert_is(found, wanted):
    loss, gradients = wanted
    assert found[0] == pytest.approx(loss, rel=1e-5)
    assert gradients.keys() == found[1].keys()
    for name, gradient in gradients.items():
        assert np.allclose(found[1][name], gradient, rtol=1e-4, atol=1e-6), name


def test_the_first_step_minimises_the_cross_entropy(t, monkeypatch):
    h, y, head, *found = first_step(t, monkeypatch)
    assert_is(found, by_hand(h, head, np.eye(CLASSES)[y], np.ones(ROWS)))


def test_the_first_step_weights_rows_by_their_class(t, monkeypatch):
    h, y, head, *found = first_step(t, monkeypatch, class_weight=CLASS_WEIGHT)
    assert_is(found, by_hand(h, head, np.eye(CLASSES)[y], CLASS_WEIGHT[y].astype(float)))


def test_the_first_step_smooths_its_labels(t, monkeypatch):
    h, y, head, *found = first_step(t, monkeypatch, label_smoothing=SMOOTHING)
    target = (1 - SMOOTHING) * np.eye(CLASSES)[y] + SMOOTHING / CLASSES
    assert_is(found, by_hand(h, head, target, np.ones(ROWS)))


def test_the_first_step_mixes_features_and_classes(t, monkeypatch):
    partner = np.roll(np.arange(ROWS), 5)
    share = np.linspace(0.5, 1.0, ROWS, dtype=np.float32)

    def draw(alpha, *, seed, step, rows):
        assert (alpha, step, rows) == (ALPHA, 0, ROWS)
        return Mix(share, partner)

    monkeypatch.setattr("unfreeze.engine.stepping.draw_mix", draw)
    h, y, head, *found = first_step(t, monkeypatch, mixup=ALPHA)
    target = np.eye(CLASSES)[y]
    kept = share[:, None].astype(np.float64)
    mixed = [kept * value + (1 - kept) * value[partner] for value in (h, target)]
    assert_is(found, by_hand(mixed[0], head, mixed[1], np.ones(ROWS)))
