"""The training toys of tests/toys.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("strategy_toys", Path(__file__).parent.parent / "toys.py")
strategy_toys = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = strategy_toys
spec.loader.exec_module(strategy_toys)


@pytest.fixture(scope="session")
def t():
    return strategy_toys
