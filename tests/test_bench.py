"""The benches can be started: every program takes what it is given, and a bench of which nothing ran says so."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from types import ModuleType

import pytest

from unfreeze.comparing.meter import Meter

BENCH = Path(__file__).parents[1] / "bench"
GIVEN = {"TEXTS": Path("mails.parquet"), "WEIGHTS": Path("dinov2.safetensors")}
NONE = dict.fromkeys(GIVEN)
# What peers have in environments of their own.
LIBRARIES = {
    "fastai_finetune.py": ("fastai", "fastai.vision", "fastai.vision.all"),
    "setfit_few.py": ("setfit", "datasets"),
    "st_sklearn.py": ("sentence_transformers",),
}


class ParsedError(Exception):
    """A program has read its arguments; what it does next is measuring."""


class Anything(ModuleType):
    """A library of a peer, which is not installed here."""

    __path__ = ()
    __version__ = "0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@pytest.fixture
def load(monkeypatch):
    """Imports a program of the benches, under a name of its own."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)

    def load(program):
        spec = importlib.util.spec_from_file_location(f"bench_{Path(program).stem}", BENCH / program)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        with monkeypatch.context() as patch:
            for library in LIBRARIES.get(Path(program).name, ()):
                patch.setitem(sys.modules, library, Anything(library))
            spec.loader.exec_module(module)
        return module

    yield load
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(BENCH):
            del sys.modules[name]


def test_what_pages_say_of_choosing_is_what_the_file_of_results_holds(load):
    chooser, kept = load("chooser.py"), []
    for line in (BENCH / "results" / "chooser.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["time_limit"] in (None, "10m"):
            kept.append(row)
    found = chooser.regrets(kept)
    page = (BENCH / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in chooser.table_of(found) if line not in page] == []
    words = " ".join((BENCH.parent / "docs" / "choosing.md").read_text(encoding="utf-8").split())
    auto, rule, full = (
        100 * mean([getattr(one, name) for one in found]) for name in ("auto", "table", "full")
    )
    slowest = max(one.seconds[0] / one.seconds[1] for one in found)
    for said in (
        f"measured on {len(found)} small tasks",
        f"{auto:.1f} points on average",
        f"({max(100 * one.auto for one in found):.1f} at most",
        f"the table by rows loses {rule:.1f} and full fine-tuning always {full:.1f} ",
        f"in no more than {slowest:.1f} times the time",
    ):
        assert said in words


@pytest.fixture
def parsed(load, monkeypatch):
    """What a program reads its arguments as; ends the test where it refuses them."""

    def parsed(program, arguments):
        real, found = argparse.ArgumentParser.parse_args, []

        def parse(self, *rest):
            found.append(real(self, *rest))
            raise ParsedError

        module = load(program)
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", parse)
            patch.setattr(sys, "argv", [program, *arguments])
            with pytest.raises(ParsedError):
                module.main()
        return found[0]

    return parsed


def benches(load):
    return load("__main__.py").BENCHES


def test_every_program_takes_the_arguments_of_its_bench(load, parsed):
    for name, bench in benches(load).items():
        for given in (GIVEN, NONE):
            for device in bench.devices if not bench.missing(given) else ():
                read = parsed(bench.program, bench.command(given, device))
                assert not bench.placed or read.device == device, name


def test_every_side_of_a_comparison_takes_its_arguments(load, parsed, tmp_path, monkeypatch):
    monkeypatch.setattr("safetensors.torch.save_file", lambda tensors, path: None)
    beside = load("beside.py")
    for what, sides in beside.SIDES.items():
        asked = argparse.Namespace(device="cuda", epochs=None, max_length=64, setfit_steps=9)
        for side in sides(asked, tmp_path):
            program, *arguments = side.command((Path("train"), Path("test")), 3)[3:]
            read = parsed(Path(program).relative_to(BENCH), arguments)
            assert read.device == "cuda", (what, side.name)


def test_files_that_were_given_reach_the_benches_that_can_use_them(load):
    found = benches(load)
    assert found["frozen-pass"].command(GIVEN, "cpu") == [
        *("--weights", "dinov2.safetensors", "--texts", "mails.parquet")
    ]
    assert found["frozen-pass"].command(NONE, "cpu") == []
    assert found["beside-few"].command(GIVEN, "cuda") == [
        *("few", "--texts", "mails.parquet", "--device", "cuda")
    ]
    assert found["beside-few"].missing(NONE) == ["TEXTS"]


def test_no_usual_bench_needs_what_nobody_gave(load):
    usual = [bench for bench in benches(load).values() if bench.usual and "cpu" in bench.devices]
    assert sum(not bench.missing(NONE) for bench in usual) >= 8
    assert not any(bench.missing(GIVEN) for bench in usual)


def bench(*arguments):
    command = [sys.executable, "-m", "bench", *arguments]
    environment = os.environ | {"PYTHONPATH": str(BENCH.parent / "src")}
    return subprocess.run(command, cwd=BENCH.parent, env=environment, capture_output=True, text=True)


def test_a_bench_of_which_nothing_ran_says_so_and_fails():
    done = bench("beside-texts", "--device", "cuda")
    assert done.returncode == 1
    assert "beside-texts is left out: it needs --texts." in done.stdout
    assert "Nothing was measured" in done.stderr


def test_a_bench_that_cannot_run_on_a_device_is_refused_there():
    done = bench("startup", "--device", "cuda")
    assert done.returncode == 2
    assert "startup runs on cpu, not on cuda" in done.stderr


def test_make_bench_hands_the_files_on():
    command = ["make", "--dry-run", "bench", "TEXTS=a b.parquet", "WEIGHTS=w", "DEVICE=cuda", "NAMES=startup"]
    said = subprocess.run(command, cwd=BENCH.parent, capture_output=True, text=True, check=True).stdout
    joined = " ".join(said.replace("\\\n", " ").split())
    assert "-m bench --device cuda --texts 'a b.parquet' --weights 'w' startup" in joined


def test_a_side_takes_the_energy_of_its_process_where_the_machine_tells(load, monkeypatch, tmp_path):
    processes, beside = load("processes.py"), load("beside.py")
    counter = tmp_path / "intel-rapl:0"
    counter.mkdir()
    for name, value in (("energy_uj", 1_000_000), ("max_energy_range_uj", 10**12)):
        (counter / name).write_text(str(value))
    spend = f"import json, pathlib; pathlib.Path({str(counter / 'energy_uj')!r}).write_text('7201000000')"
    command = [sys.executable, "-c", f"{spend}; print(json.dumps({{'accuracy': 1.0}}))"]
    monkeypatch.setattr(processes, "Meter", lambda: Meter(powercap=tmp_path))
    told = processes.run_json(command)
    assert told["joules"] == pytest.approx(7200.0)
    assert beside.watt_hours([told["joules"]]) == "2.00"
    monkeypatch.setattr(processes, "Meter", lambda: Meter(powercap=tmp_path / "none"))
    untold = processes.run_json(command)
    assert untold["joules"] is None
    assert beside.watt_hours([told["joules"], untold["joules"]]) == "not readable"
