"""docs/licences.md says what pyproject.toml, the installed packages and the catalogue say."""

import importlib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
# What keeps a program from being shipped under its own licence, or asks something of those who ship it.
HINDERS = {"GPL", "LGPL", "AGPL", "unknown"}
ASKS = {"NVIDIA", "MPL-2.0", "CC-BY-NC-SA-4.0"}


@pytest.fixture
def tools(monkeypatch):
    """The scripts ``licences`` and ``oldest``, which import each other as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("licences")


def test_every_requirement_stands_in_the_table_and_no_other(tools):
    asked = [
        (f"`{name}`", f"`{allowed}`", f"`{extra}`" if extra else "")
        for extra, group in tools.requirements().items()
        for name, allowed in group.items()
    ]
    rows = tools.rows_of(PAGE, "dependencies")
    assert [row[:3] for row in rows] == asked
    assert all(row[3] and row[4] for row in rows)


def test_the_table_names_the_licence_that_each_package_declares(tools):
    compared = set()
    for name, _, _, licence, _ in tools.rows_of(PAGE, "dependencies"):
        try:
            declared = tools.licences(name.strip("`"))
        except metadata.PackageNotFoundError:
            continue
        compared.add(name)
        # Some declare less in another version, none anything else.
        assert set(tools.known(licence)) & set(declared), (name, declared)
        assert not HINDERS & set(declared), (name, declared)
    assert {"`torch`", "`pillow`", "`fastapi`", "`elpv-dataset`"} <= compared


def test_nothing_that_comes_along_hinders_shipping_without_being_named(tools):
    along = tools.brought_along()
    assert {"torch", "sympy", "sentence-transformers", "tqdm"} <= set(along)
    hindering = {name for name, found in along.items() if HINDERS & set(found)}
    assert hindering <= {"cuda-toolkit"}
    asking = {name for name, found in along.items() if ASKS & set(found)}
    assert {name for name in asking if not name.startswith(("nvidia-", "cuda-"))} <= {
        "tqdm",
        "certifi",
        "elpv-dataset",
    }
    for name in ("cuda-toolkit", "NVIDIA", "tqdm", "certifi", "elpv-dataset"):
        assert name in PAGE.partition("## Weights")[0].partition("What to know")[2]


def test_the_weights_of_the_catalogue_stand_in_the_table_with_their_licence(tools):
    assert tools.rows_of(PAGE, "weights") == tools.weight_rows()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", {"LGPL"}),
        ("GNU Affero General Public License v3", {"AGPL"}),
        ("GPL-2.0-or-later", {"GPL"}),
        ("GNU General Public License (GPL)", {"GPL"}),
        ("Apache-2.0 AND MIT", {"Apache-2.0", "MIT"}),
        ("Copyright (c) 2005 Somebody", set()),
    ],
)
def test_licences_are_known_by_their_words(tools, text, names):
    assert set(tools.known(text)) == names


def test_the_oldest_versions_are_the_lower_bounds(tools):
    oldest = importlib.import_module("oldest")
    assert oldest.oldest("torch", ">=2.10,<3") == "torch==2.10"
    with pytest.raises(ValueError, match="no lower bound"):
        oldest.oldest("torch", "<3")
    for group in tools.requirements().values():
        for name, allowed in group.items():
            assert oldest.oldest(name, allowed).startswith(f"{name}==")
