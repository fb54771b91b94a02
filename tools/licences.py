"""Write the tables of docs/licences.md from pyproject.toml, the installed packages' metadata and the catalogue.

What a requirement is for stands in the page alone and is kept. Run it with every extra installed:
``python tools/licences.py``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from oldest import requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parent.parent / "docs" / "licences.md"
SHIPPED = ("openvino", "offline", "demo", "export", "serve", "s3", "ray")
# What versions that are allowed declared before the one that is installed.
EARLIER = {"filelock": "Unlicense"}

# The first words by which a licence is known, beside the identifier that the page uses for it.
KNOWN = (
    (r"AGPL|Affero General Public", "AGPL"),
    (r"LGPL|Lesser General Public", "LGPL"),
    (r"\bGPL|General Public", "GPL"),
    (r"CC-BY-NC-SA-4\.0", "CC-BY-NC-SA-4.0"),
    (r"NVIDIA|Proprietary", "NVIDIA"),
    (r"MPL", "MPL-2.0"),
    (r"Apache", "Apache-2.0"),
    (r"MIT-CMU", "MIT-CMU"),
    (r"\bMIT\b", "MIT"),
    (r"BSD-2-Clause|BSD 2-Clause", "BSD-2-Clause"),
    (r"(?<!0)BSD", "BSD-3-Clause"),
    (r"PSF|Python Software Foundation", "PSF-2.0"),
    (r"\bISC\b", "ISC"),
    (r"Unlicense", "Unlicense"),
    (r"CNRI-Python", "CNRI-Python"),
    (r"0BSD", "0BSD"),
    (r"Zlib", "Zlib"),
    (r"CC0-1\.0", "CC0-1.0"),
    (r"BSL-1\.0", "BSL-1.0"),
)
UNKNOWN = "unknown"


def known(text: str) -> tuple[str, ...]:
    """The licences that a text names, in the order of KNOWN; the long texts of licences are not for this."""
    found = []
    for words, name in KNOWN:
        text, times = re.subn(words, "", text)
        if times:
            found.append(name)
    return tuple(found)


def licences(name: str) -> tuple[str, ...]:
    """The licences that an installed distribution declares: by the first of its declarations that says any."""
    distribution = metadata.distribution(name)
    for text in _declarations(distribution):
        if found := known(text):
            return found
    return (UNKNOWN,)


def shown(name: str) -> str:
    """What an installed distribution declares, as it writes it where it writes an expression."""
    now = metadata.metadata(name).get("License-Expression") or " AND ".join(licences(name))
    return f"{now}; before, {EARLIER[name]}" if name in EARLIER else now


def _declarations(distribution: metadata.Distribution) -> Iterator[str]:
    fields = distribution.metadata
    yield fields.get("License-Expression") or ""
    # Some packages put the whole text there, which names other licences as well.
    yield (fields.get("License") or "").partition("\n")[0]
    yield " ".join(line for line in fields.get_all("Classifier") or () if line.startswith("License"))
    for file in distribution.files or ():
        if re.search(r"dist-info/(licenses/)?LICEN[CS]E[.\w]*$", str(file)):
            yield file.read_text(encoding="utf-8").strip().partition("\n")[0]


def brought_along() -> dict[str, tuple[str, ...]]:
    """Every installed distribution that the package with SHIPPED asks for, directly or not, with its licences."""
    wanted = requirements()
    found: dict[str, tuple[str, ...]] = {}
    to_visit = [(name, ()) for group in ("", *SHIPPED) for name in wanted[group]]
    visited = set()
    while to_visit:
        name, extras = to_visit.pop()
        if (canonicalize_name(name), extras) in visited:
            continue
        visited.add((canonicalize_name(name), extras))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found[canonicalize_name(name)] = licences(name)
        for further in map(Requirement, lines):
            asked = [{"extra": extra} for extra in extras or ("",)]
            if further.marker is None or any(further.marker.evaluate(extra) for extra in asked):
                to_visit.append((further.name, tuple(sorted(further.extras))))
    return found


def dependency_rows(purposes: dict[str, str]) -> list[tuple[str, ...]]:
    """What pyproject.toml asks for, with what it is for by the package's name."""
    return [
        (
            f"`{name}`",
            f"`{allowed}`",
            f"`{extra}`" if extra else "",
            shown(name),
            purposes.get(name, ""),
        )
        for extra, group in requirements().items()
        for name, allowed in group.items()
    ]


def weight_rows() -> list[tuple[str, ...]]:
    """The backbones of the catalogue."""
    from unfreeze.backbones.catalog import CATALOG

    return [(f"`{entry.name}`", entry.source, entry.licence or UNKNOWN) for entry in CATALOG]


def along_rows() -> list[tuple[str, ...]]:
    """What is brought along, by licence."""
    by_licence = defaultdict(list)
    for name, found in brought_along().items():
        by_licence[" AND ".join(found)].append(name)
    return [(licence, ", ".join(sorted(names))) for licence, names in sorted(by_licence.items())]


def rows_of(page: str, table: str) -> list[tuple[str, ...]]:
    """The rows of a table of the page, without its head."""
    text = re.search(_block(table), page, re.DOTALL)
    if text is None:
        raise ValueError(f"{PAGE.name} has no table '{table}'.")
    return [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in text[2].strip().splitlines()[2:]
    ]


def purposes_in(page: str) -> dict[str, str]:
    """What the page says that each requirement is for."""
    return {row[0].strip("`"): row[-1] for row in rows_of(page, "dependencies")}


def _block(table: str) -> str:
    return rf"(<!-- {table} -->\n)(.*?)(<!-- end of {table} -->)"


def write(page: str, table: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """The page with another content of one table."""
    lines = [head, ("---",) * len(head), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return re.sub(_block(table), lambda found: found[1] + text + found[3], page, flags=re.DOTALL)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    page = write(
        page,
        "dependencies",
        ("package", "versions", "extra", "licence", "what for"),
        dependency_rows(purposes_in(page)),
    )
    page = write(page, "along", ("licence", "packages"), along_rows())
    page = write(page, "weights", ("backbone", "from", "licence"), weight_rows())
    PAGE.write_text(page, encoding="utf-8")
