"""A phase on pairs: rows of a class come together, the head stays, and no validation row has a say."""

import pytest
import torch
from torch.nn import functional

from unfreeze.plan import Phase, Plan, Thaw


def plan_of(rate=1e-2, epochs=8, **settings):
    thaw = tuple(Thaw(stage, "weights", rate) for stage in range(3))
    phase = Phase(name="pairs", epochs=epochs, thaw=thaw, head_rate=None, objective="pairs")
    return Plan(strategy="own", phases=(phase,), batch_size=16, **settings)


def apart(backbone, rows):
    """Mean similarity of rows of one class less that of rows of two, of a part's pooled features."""
    with torch.no_grad():
        state = rows.inputs.batch(torch.arange(len(rows.y)).numpy(), None)
        unit = functional.normalize(backbone.run(state).h, dim=1)
    y = torch.from_numpy(rows.y)
    alike, similar = y[:, None] == y[None], unit @ unit.T
    others = ~torch.eye(len(y), dtype=torch.bool)
    return float(similar[alike & others].mean() - similar[~alike].mean())


@pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
def test_classes_come_apart_on_rows_that_were_not_trained_on(t, kind):
    backbone, task = t.toy(kind), t.task_of(kind)
    head = t.head_of(backbone)
    before, kept = (
        apart(backbone, task.val),
        {name: value.clone() for name, value in head.state_dict().items()},
    )
    result, _ = t.run(plan_of(), backbone, task, head=head)
    assert apart(backbone, task.val) > before + 0.2
    assert all(torch.equal(value, kept[name]) for name, value in head.state_dict().items())
    assert [record.val_accuracy for record in result.history] == [None] * 8
    assert result.taken == "pairs, epoch 8"


def test_pairs_after_classes_do_not_bring_back_what_validation_liked(t):
    backbone, task = t.toy("vit"), t.task_of("vit")
    classes = Phase(name="classes", epochs=2, thaw=(Thaw(2, "weights", 1e-2),))
    plan = plan_of()
    t.run(Plan(strategy="own", phases=(classes, *plan.phases), batch_size=16), backbone, task)
    alone = t.toy("vit")
    t.run(Plan(strategy="own", phases=(classes,), batch_size=16), alone, task)
    assert apart(backbone, task.val) > apart(alone, task.val) + 0.05
