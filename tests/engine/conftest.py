"""The toys of tests/executors, and an executor that counts."""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from unfreeze.contracts import Passed

spec = importlib.util.spec_from_file_location(
    "executor_toys", Path(__file__).parent.parent / "executors" / "conftest.py"
)
executor_toys = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = executor_toys
spec.loader.exec_module(executor_toys)


@dataclass
class Counting:
    """Runs a backbone as it is and notes the size of every batch."""

    backbone: object
    boundaries: tuple
    name: str = "torch-fp32"
    precision: str = "fp32"
    device: str = "cpu"
    sizes: list = field(default_factory=list)

    def __call__(self, batch):
        import torch

        self.sizes.append(len(batch.h))
        with torch.no_grad():
            return Passed(
                tuple(
                    self.backbone.summary(self.backbone.run(batch, 0, boundary), boundary)
                    for boundary in self.boundaries
                )
            )


@pytest.fixture(scope="session")
def toys():
    return executor_toys.Toys


@pytest.fixture
def counting():
    return Counting


@pytest.fixture(params=["cnn", "vit", "text"])
def kind(request):
    return request.param
