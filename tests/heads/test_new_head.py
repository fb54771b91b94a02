"""Heads that start new."""

import numpy as np
import torch
from torch.nn import functional

from unfreeze.heads.module import from_module, new_head


def test_a_new_linear_head_gives_every_class_the_same_chance():
    head = new_head("linear", 5, 3, dropout=0.1, seed=0)
    assert not head.training
    assert torch.equal(head(torch.randn(4, 5)), torch.zeros(4, 3))
    assert head.dropout.p == 0.1


def test_a_new_mlp_is_drawn_by_its_seed_and_leaves_the_generator_alone():
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, again, other = (new_head("mlp", 5, 3, dropout=0.2, seed=seed).state_dict() for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {name: tuple(tensor.shape) for name, tensor in first.items()} == {
        "hidden.weight": (256, 5),
        "hidden.bias": (256,),
        "weight": (3, 256),
        "bias": (3,),
    }
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])
    # As torch draws linear layers: evenly within one over the root of the inputs.
    assert 0.95 * 5**-0.5 < float(first["hidden.weight"].abs().max()) <= 5**-0.5


def test_a_new_mlp_learns_what_no_linear_head_can():
    torch.manual_seed(0)
    features = torch.randn(400, 2)
    y = (features.prod(dim=1) > 0).long()
    head = new_head("mlp", 2, 2, dropout=0.2, seed=0).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(head(features), y).backward()
        optimizer.step()
    shipped = from_module(head.eval(), boundaries=(4,))
    assert (shipped.kind, shipped.boundaries, shipped.width, shipped.classes) == ("mlp", (4,), 2, 2)
    right = shipped.logits(features.numpy()).argmax(axis=1) == y.numpy()
    assert float(np.mean(right)) > 0.9
