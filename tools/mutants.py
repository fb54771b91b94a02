"""How many small faults in the core rooms the tests notice: a sample of mutants, each tried by the tests of its room.

    python tools/mutants.py --count 150
    python tools/mutants.py --rooms bundle --seed 1 --count 60
    python tools/mutants.py --files engine/choice.py data/walking.py --count 40

A mutant is one source file with one change: a comparison, a sum or a truth value turned round, a number moved by one,
a condition negated, an answer left out. A copy of the sources holds it; a child of a process that has torch and the
other libraries imported runs the tests that are named after its file and, if they pass, those of its whole room. Tests
that fail or hang have noticed it. Survivors are printed with their line: some change nothing that can be seen.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

ROOT = Path(__file__).parents[1]
ROOMS = ("engine", "bundle", "data")
# Imported once: what the tests need that is not ours. Pools of threads would not survive a fork.
LIBRARIES = (
    "torch", "timm", "transformers", "peft", "sklearn.linear_model", "pandas", "pyarrow.parquet", "pytest",
)  # fmt: skip
# A mutant that runs so many times longer than the tests do without it hangs.
PATIENCE = 4.0
COMPARISONS = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATIONS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change in one file: the node's place in the order of walking, and what it says then."""

    file: Path
    place: int
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before}  ->  {self.after}"


def changed(node: ast.AST) -> ast.AST | None:
    """The node with its change, None where there is none for its kind."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[operator, *_]):
            new.ops[0] = COMPARISONS[type(operator)]()
        case ast.BinOp(op=operator) if type(operator) in OPERATIONS:
            new.op = OPERATIONS[type(operator)]()
        case ast.BoolOp(op=operator):
            new.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return inner
        case ast.Constant(value=bool(value)):
            new.value = not value
        case ast.Constant(value=int() | float() as value):
            new.value = value + 1
        case ast.If() | ast.IfExp() | ast.While():
            new.test = ast.UnaryOp(ast.Not(), new.test)
        case ast.Return(value=ast.Constant(None)):
            return None
        case ast.Return(value=value) if value is not None:
            new.value = ast.Constant(None)
        case _:
            return None
    return new


def nodes_of(tree: ast.Module) -> list[ast.AST]:
    """The nodes inside of functions, in a fixed order; annotations and docstrings are left alone."""
    found: list[ast.AST] = []

    def walk(node: ast.AST, inside: bool) -> None:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_params", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    if inside:
                        found.append(child)
                    walk(child, inside or isinstance(child, ast.FunctionDef))

    walk(tree, False)
    return found


def mutants_of(file: Path) -> Iterator[Mutant]:
    """Every mutant of a file, whose path is relative to the sources."""
    tree = ast.parse((ROOT / "src" / file).read_text(encoding="utf-8"))
    for place, node in enumerate(nodes_of(tree)):
        new = changed(node)
        if new is not None:
            before, after = (ast.unparse(one).splitlines()[0] for one in (node, new))
            yield Mutant(file, place, node.lineno, before, after)  # type: ignore[attr-defined]


def write(mutant: Mutant, folder: Path) -> None:
    """Write the mutant over its file in a copy of the sources."""
    tree = ast.parse((ROOT / "src" / mutant.file).read_text(encoding="utf-8"))
    target = nodes_of(tree)[mutant.place]
    new = changed(target)
    assert new is not None

    class Put(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is target else self.generic_visit(node)

    (folder / mutant.file).write_text(
        ast.unparse(ast.fix_missing_locations(Put().visit(tree))), encoding="utf-8"
    )


def passes(tests: list[str], sources: Path, seconds: float | None) -> bool:
    """Whether the tests pass on these sources, in a child of this process, within so many seconds."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            sys.path.insert(0, str(sources))
            os.setpgid(0, 0)
            import pytest

            options = [
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                "-m",
                "not slow and not browser",
            ]
            # Its plugins may have been imported by the libraries.
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            status = pytest.main([*tests, *options])
        finally:
            os._exit(int(status))
    while True:
        done, how = os.waitpid(child, os.WNOHANG)
        if done:
            # 5: all of them are slow ones, which are not run here.
            return os.waitstatus_to_exitcode(how) in (0, 5)
        if seconds is not None and time.monotonic() - began > seconds:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)


def own_tests(file: Path) -> str | None:
    """The tests that are named after a file, such as tests/engine/test_store.py after engine/store.py."""
    path = ROOT / "tests" / file.parent.name / f"test_{file.stem}.py"
    return str(path.relative_to(ROOT)) if path.exists() else None


def main() -> None:
    """Print the survivors of a sample, and the share that was noticed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rooms", nargs="+", default=ROOMS, choices=ROOMS)
    parser.add_argument("--files", nargs="+", help="paths in src/unfreeze, in place of whole rooms")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--own", action="store_true", help="only files with tests of their name, and those tests alone"
    )
    asked = parser.parse_args()
    os.chdir(ROOT)
    package = ROOT / "src" / "unfreeze"
    paths = [package / name for name in asked.files or ()]
    if not paths:
        paths = [path for room in asked.rooms for path in sorted((package / room).glob("*.py"))]
    files = [path.relative_to(ROOT / "src") for path in paths]
    files = [file for file in files if not asked.own or own_tests(file)]
    everything = [mutant for file in files for mutant in mutants_of(file)]
    sample = random.Random(asked.seed).sample(everything, min(asked.count, len(everything)))
    print(f"{len(everything):,} mutants of {len(files)} files; {len(sample)} of them:", flush=True)
    for library in LIBRARIES:
        importlib.import_module(library)
    taken: dict[str, float] = {}
    survivors = []
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name) / "src"
        shutil.copytree(ROOT / "src", sources, ignore=shutil.ignore_patterns("__pycache__"))
        # Bytecode is trusted by time and size, and a mutant may have both of its file.
        sys.dont_write_bytecode = True

        def noticed(tests: str) -> bool:
            if tests not in taken:
                began = time.monotonic()
                if not passes([tests], sources_whole, None):
                    raise SystemExit(f"{tests} fails without any mutant.")
                taken[tests] = time.monotonic() - began
            return not passes([tests], sources, 30 + PATIENCE * taken[tests])

        sources_whole = Path(name) / "whole"
        shutil.copytree(sources, sources_whole)
        for number, mutant in enumerate(sample):
            write(mutant, sources)
            own, room = own_tests(mutant.file), f"tests/{mutant.file.parent.name}"
            tries = [own] if asked.own else [own, room]
            if not any(noticed(tests) for tests in tries if tests is not None):
                survivors.append(mutant)
                print(f"  survived: {mutant}", flush=True)
            shutil.copyfile(ROOT / "src" / mutant.file, sources / mutant.file)
            if number % 25 == 24:
                print(f"  {number + 1} tried, {number + 1 - len(survivors)} noticed", flush=True)
    died = len(sample) - len(survivors)
    print(f"{died} of {len(sample)} mutants are noticed ({died / len(sample):.0%}).")


if __name__ == "__main__":
    main()
