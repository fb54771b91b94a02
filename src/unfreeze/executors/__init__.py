"""Engines that run the stages below a boundary without gradients; see ``unfreeze.contracts.Executor``.

Importing this package loads neither torch nor OpenVINO: each function imports what it needs.
"""

from unfreeze.executors.agreement import ExecutorError, measure_error
from unfreeze.executors.building import available_executors, build_executor, unavailable_executors

__all__ = [
    "ExecutorError",
    "available_executors",
    "build_executor",
    "measure_error",
    "unavailable_executors",
]
