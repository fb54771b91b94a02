import weakref

import pytest
import torch
from torch.jit import _state

from unfreeze.executors.tracing import traced


def test_a_trace_computes_what_its_module_does() -> None:
    module, x = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).eval(), torch.randn(4, 3)
    with traced(module, (x,)) as trace:
        assert torch.equal(trace(x), module(x))


def test_nothing_of_a_trace_is_left() -> None:
    lasting = _state._python_cu
    before = len(lasting.get_functions())
    with traced(torch.nn.Sequential(torch.nn.Linear(3, 2)), (torch.zeros(1, 3),)) as trace:
        unit = weakref.ref(_state._python_cu)
    del trace
    assert unit() is None
    assert _state._python_cu is lasting
    assert len(lasting.get_functions()) == before


def test_a_trace_that_fails_leaves_nothing_either() -> None:
    lasting = _state._python_cu
    with pytest.raises(RuntimeError), traced(torch.nn.Linear(3, 2), (torch.zeros(1, 4),)):
        pass
    assert _state._python_cu is lasting


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_modules_that_are_scripted_before_and_after_are_usable() -> None:
    scripted, x = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 2))), torch.randn(4, 3)
    before = scripted(x)
    with traced(torch.nn.Sequential(torch.nn.Linear(3, 2)), (x,)):
        pass
    assert torch.equal(scripted(x), before)
    assert torch.equal(torch.jit.script(torch.nn.ReLU())(x), x.clamp(min=0))
