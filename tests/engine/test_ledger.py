"""The ledger tells what changed, and its hash notices any change of what is frozen."""

import json

import pytest
import torch

from unfreeze.engine.ledger import PhaseRecord, fingerprint_frozen, record_phase
from unfreeze.engine.state import Weights
from unfreeze.engine.trainable import select
from unfreeze.plan import Phase, Plan, Thaw


def begun(t, kind, norm="freeze"):
    backbone = t.toy(kind)
    head = t.head_of(backbone)
    phase = Phase(name="p", epochs=1, thaw=(Thaw(2, "weights", 0.1),), head_rate=0.3, norm=norm)
    weights = Weights(Plan(strategy="own", phases=(phase,)), backbone, head)
    return backbone, head, phase, weights, select(backbone, head, phase)


def test_any_change_of_a_frozen_tensor_changes_the_hash(t, kind):
    backbone, _, phase, _, groups = begun(t, kind)
    trained = {name for group in groups for name, _ in group.parameters}
    before = fingerprint_frozen(backbone, groups, phase)
    for name, tensor in backbone.module.state_dict().items():
        kept = tensor.clone()
        # The smallest change there is: the last bit of one number.
        tensor.reshape(-1).view(torch.uint8)[0] ^= 1
        assert (fingerprint_frozen(backbone, groups, phase) == before) == (name in trained), name
        tensor.copy_(kept)
    assert fingerprint_frozen(backbone, groups, phase) == before


def test_statistics_count_as_frozen_unless_the_phase_trains_them_there(t):
    backbone, _, phase, _, groups = begun(t, "cnn", norm="train")
    before = fingerprint_frozen(backbone, groups, phase)
    backbone.module.block2.norm.running_mean += 1
    assert fingerprint_frozen(backbone, groups, phase) == before
    backbone.module.block1.norm.running_mean += 1
    assert fingerprint_frozen(backbone, groups, phase) != before


def test_a_tensor_tied_to_a_trained_one_is_not_frozen(t):
    backbone, head, phase, _, _ = begun(t, "vit")
    backbone.module.block3.fc1.weight = backbone.module.block2.fc1.weight
    groups = select(backbone, head, phase)
    before = fingerprint_frozen(backbone, groups, phase)
    backbone.module.block2.fc1.weight.data += 1
    assert fingerprint_frozen(backbone, groups, phase) == before


def test_the_change_of_a_stage_is_relative_to_its_weights(t):
    backbone, head, phase, weights, groups = begun(t, "cnn", norm="train")
    before, frozen = weights.copy(), fingerprint_frozen(backbone, groups, phase)
    with torch.no_grad():
        for parameter in backbone.module.block2.parameters():
            parameter *= 1.25
        head.weight += 2.0
        backbone.module.block2.norm.running_var += 100
    drift = {"stem": 0.0, "block2": 0.5}
    record = record_phase(
        backbone, phase, groups, before, weights.live(), frozen, drift=drift, precision="bf16"
    )
    assert (record.drift, record.precision) == (drift, "bf16")
    assert record.change == pytest.approx({"block2": 0.25, "head": 8.0})
    assert record.frozen_unchanged
    assert record.declared == ("block2: weights",)
    sizes = {group.name: (group.rate, group.tensors, group.parameters) for group in record.groups}
    assert sizes == {
        "block2.weights": (0.1, 1, 432),
        "block2.weights (no decay)": (0.1, 2, 16),
        "head": (0.3, 1, 16),
        "head (no decay)": (0.3, 1, 2),
    }


def test_a_record_survives_json(t):
    backbone, _, phase, weights, groups = begun(t, "vit")
    moved = {"embed": 0.0, "pool": 0.25}
    record = record_phase(
        backbone, phase, groups, weights.copy(), weights.live(), "x", drift=moved, precision="fp32"
    )
    assert not record.frozen_unchanged
    assert PhaseRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
