from __future__ import annotations

import numpy as np
import pytest
import torch

from unfreeze.heads import mlp
from unfreeze.heads.design import make_design
from unfreeze.heads.folds import assign_folds
from unfreeze.heads.head import Head
from unfreeze.heads.mlp import fit_mlp
from unfreeze.heads.module import from_module, to_module


def fitted(x, y, *, seed=0):
    assigned = assign_folds(y, folds=3, seed=0)
    return fit_mlp(x, y, boundary=5, assigned=assigned, classes=3, balanced=False, seed=seed)


def test_the_seed_alone_decides_the_mlp(gaussians, monkeypatch):
    monkeypatch.setattr(mlp, "MOST_EPOCHS", 3)
    x, y = gaussians(90, 8, 3)
    state = torch.get_rng_state()
    first = fitted(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    again, other = fitted(x, y), fitted(x, y, seed=1)
    assert (first.head.tensors["weight"] == again.head.tensors["weight"]).all()
    assert (first.oof_logits == again.oof_logits).all()
    assert (first.head.tensors["weight"] != other.head.tensors["weight"]).any()


def test_the_standardisation_is_folded_into_the_hidden_layer(gaussians):
    x, y = gaussians(90, 8, 3)
    design = make_design([x], name="toy")
    network = mlp._Network(design, y, np.ones(90, dtype=bool), classes=3, balanced=False, seed=(0, 0))
    network.train_epoch()
    head = network.head(5)
    assert head.tensors["hidden.weight"].shape == (256, 8)
    assert np.abs(head.logits(x) - network.logits()).max() < 1e-3


def test_training_stops_before_it_memorises_noise():
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 60)).astype(np.float32)
    fit = fitted(x, random.permutation(np.arange(120) % 3))
    assert 1 <= fit.epochs <= 10


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_module_has_the_head_s_names_and_logits_and_goes_back(kind):
    random = np.random.default_rng(0)
    shapes = {"weight": (3, 7), "bias": (3,)}
    if kind == "mlp":
        shapes = {"hidden.weight": (4, 7), "hidden.bias": (4,), "weight": (3, 4), "bias": (3,)}
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    head = Head(kind=kind, boundaries=(2, 5), tensors=tensors)
    module = to_module(head, dropout=0.5)
    assert set(module.state_dict()) == set(shapes)
    x = random.normal(size=(6, 7)).astype(np.float32)
    with torch.inference_mode():
        assert np.abs(module(torch.from_numpy(x)).numpy() - head.logits(x)).max() < 1e-5
        module.train()
        assert not torch.equal(module(torch.from_numpy(x)), module(torch.from_numpy(x)))
    with torch.no_grad():
        module.bias += 1.0
    back = from_module(module, boundaries=(2, 5))
    assert (back.kind, back.boundaries, back.width, back.classes) == (kind, (2, 5), 7, 3)
    assert np.abs(back.tensors["bias"] - head.tensors["bias"] - 1.0).max() < 1e-6


def test_a_module_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="Conv2d"):
        from_module(torch.nn.Conv2d(1, 1, 1), boundaries=(1,))
