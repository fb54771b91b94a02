"""Inputs that nobody wrote: what reads tables, settings, pictures, run folders and requests answers or refuses.

A short, repeatable part of what ``make fuzz`` does for longer, and every input that once found a defect.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
CORPUS = sorted(path.relative_to(HERE / "corpus").as_posix() for path in (HERE / "corpus").glob("*/*"))
# As many as take two to four seconds.
INPUTS = {
    "csv": 60,
    "tsv": 30,
    "jsonl": 90,
    "parquet": 60,
    "config": 300,
    "image": 250,
    "bundle": 40,
    "http": 200,
}


def _module(name):
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fuzz, mutations, seeds = map(_module, ("targets", "mutations", "seeds"))


@pytest.fixture(scope="module")
def targets():
    made = fuzz.Targets()
    yield made
    made.close()


@pytest.mark.parametrize("kind", INPUTS)
def test_changed_inputs_are_read_or_refused(kind, targets):
    inputs = seeds.seeds_of(kind, targets.runs if kind == "bundle" else {})

    @settings(
        max_examples=INPUTS[kind],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(inputs), st.randoms(use_true_random=False))
    def check(data, chance):
        targets.named[kind](mutations.mutated(data, chance, kind=kind, others=inputs))

    check()


@pytest.mark.parametrize("kind", INPUTS)
def test_sound_inputs_are_read(kind, targets):
    """What the changes begin with is not refused at the door."""
    for data in seeds.seeds_of(kind, targets.runs if kind == "bundle" else {}):
        before = targets.values
        targets.named[kind](data)
        # A patch of weights gives other answers than the golden ones.
        assert targets.values > before or b" patch\n" in data or data.startswith(b"DELETE"), data[:80]


@pytest.mark.parametrize("path", CORPUS)
def test_what_once_found_a_defect_is_read_or_refused(path, targets):
    targets.named[path.partition("/")[0]]((HERE / "corpus" / path).read_bytes())


@pytest.mark.parametrize("defect", [KeyError("x"), ValueError(), RecursionError(), UserWarning("odd")])
def test_what_is_no_error_of_the_program_is_seen(defect, targets, monkeypatch):
    def broken(path):
        if isinstance(defect, Warning):
            warnings.warn(defect, stacklevel=1)
            return {}
        raise defect

    monkeypatch.setattr("unfreeze.config.read_config", broken)
    with pytest.raises(fuzz.DefectError if isinstance(defect, Warning) else type(defect)):
        targets.config(b"epochs: 3")
