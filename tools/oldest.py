"""Print the lower bound of every requirement in pyproject.toml as a pin, for ``pip install --constraint``.

The pins are read and never written down a second time, so that ``make oldest`` tests what pyproject.toml allows.
It needs no package, since it runs before any is installed.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?(?P<range>[^\[\];]*)")


def requirements(pyproject: Path = PYPROJECT) -> dict[str, dict[str, str]]:
    """Name to range of what each extra asks for, the package itself under ""; what it asks of itself is left out."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    read = {extra: [REQUIREMENT.fullmatch(line) for line in lines] for extra, lines in groups.items()}
    return {
        extra: {
            found["name"]: found["range"] for found in lines if found and found["name"] != project["name"]
        }
        for extra, lines in read.items()
    }


def oldest(name: str, allowed: str) -> str:
    """The pin of the lowest version that a range allows; raises ValueError where it has no lower bound."""
    bound = re.match(r">=([\w.]+)", allowed)
    if bound is None:
        raise ValueError(f"{name}{allowed} has no lower bound that could be tested.")
    return f"{name}=={bound[1]}"


if __name__ == "__main__":
    for group in requirements().values():
        for name, allowed in group.items():
            print(oldest(name, allowed))
