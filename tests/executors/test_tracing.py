import pytest
import torch
from torch.jit import _recursive

from unfreeze.executors.tracing import traced


def test_a_trace_computes_what_its_module_does() -> None:
    module, x = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).eval(), torch.randn(4, 3)
    with traced(module, (x,)) as trace:
        assert torch.equal(trace(x), module(x))


def test_nothing_of_a_trace_is_left() -> None:
    with traced(torch.nn.Sequential(torch.nn.Linear(3, 2)), (torch.zeros(1, 3),)):
        assert _recursive.concrete_type_store.type_store
    assert not _recursive.concrete_type_store.type_store


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_modules_that_were_scripted_before_stay_usable() -> None:
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 2)))
    x = torch.randn(4, 3)
    before = scripted(x)
    with traced(torch.nn.Sequential(torch.nn.Linear(3, 2)), (x,)):
        pass
    assert torch.equal(scripted(x), before)
    assert torch.equal(torch.jit.script(torch.nn.ReLU())(x), x.clamp(min=0))
