"""What importing costs, what is public, and what a built package holds."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import unfreeze

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "sklearn",
    "pyarrow",
    "openvino",
    "peft",
    "pandas",
    "ray",
    "grpc",
    "accelerate",
    "datasets",
    "fsspec",
    "s3fs",
)
# What several machines, object stores and data sets of the hub take: a training here loads none of it.
NOT_FOR_ONE_MACHINE = {"ray", "grpc", "accelerate", "datasets", "fsspec", "s3fs"}


def loaded_by(code):
    script = f"{code}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import unfreeze") == []


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        f"import sys\nsys.argv = ['unfreeze', *{arguments!r}]\n"
        "from unfreeze.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert stopped.code in (0, None)"
    )
    assert loaded_by(code) == []


def test_public_names_are_sorted_and_resolve():
    assert list(unfreeze.__all__) == sorted(unfreeze.__all__)
    assert dir(unfreeze) == list(unfreeze.__all__)
    for name in unfreeze.__all__:
        assert getattr(unfreeze, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        unfreeze.tarin  # noqa: B018 - the look-up is what is tested


def build(*targets, source, into):
    """Build with the installed hatchling: pip would fetch it for an isolated build."""
    chosen = [word for target in targets for word in ("--target", target)]
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", *chosen, "--directory", str(into)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist of this tree."""
    folder = tmp_path_factory.mktemp("built")
    build("wheel", "sdist", source=ROOT, into=folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The wheel's content, as an installation lays it down."""
    (wheel,) = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    return folder


def kept_by_git():
    """The files of src/ that stand here and that git does not ignore."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/unfreeze"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("needs git and its working tree")
    return {name.removeprefix("src/") for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_holds_every_source_file_and_no_other(unpacked):
    packaged = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    beside = {name for name in packaged if ".dist-info/" in name}
    assert packaged - beside == kept_by_git()
    assert {Path(name).name for name in beside} == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "LICENSE",
    }


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as content:
        content.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build("wheel", source=source, into=tmp_path / "again")
    (ours,) = built.glob("*.whl")
    (theirs,) = (tmp_path / "again").glob("*.whl")
    assert theirs.name == ours.name
    assert theirs.read_bytes() == ours.read_bytes()


def test_the_unpacked_wheel_works_outside_the_source_tree(unpacked, photos, tmp_path):
    """Isolated: neither PYTHONPATH nor the working directory can lend it a file of the source tree."""
    (points,) = unpacked.glob("*.dist-info/entry_points.txt")
    module, function = re.search(r"^unfreeze = ([\w.]+):(\w+)$", points.read_text(), re.MULTILINE).groups()
    script = (
        f"import sys\nsys.path.insert(0, {str(unpacked)!r})\n"
        f"sys.argv = ['unfreeze', 'check', {str(photos)!r}, '--json']\n"
        "import unfreeze\nprint(unfreeze.__file__, file=sys.stderr)\n"
        f"from {module} import {function}\n{function}()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stderr.splitlines()[0]).is_relative_to(unpacked)
    assert json.loads(done.stdout)


@pytest.mark.slow
def test_the_installed_wheel_trains_and_predicts_outside_the_source_tree(built, photos, tmp_path, tiny_vit):
    """By pip, into a folder that alone lends the package; what it needs is that of this environment."""
    (wheel,) = built.glob("*.whl")
    place, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*words, **variables):
        done = subprocess.run(
            list(map(str, words)),
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(place)} | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    run(*pip, "--quiet", "--no-index", "--no-deps", "--target", place, wheel)
    found = run(sys.executable, "-c", "import unfreeze; print(unfreeze.__file__)").stdout.strip()
    assert Path(found).is_relative_to(place)
    model = ["--backbone", tiny_vit, "--device", "cpu"]
    few = ["--strategy", "partial", "--epochs", "1", "--batch-size", "8", "--precision", "fp32"]
    order = (place / "bin" / "unfreeze", "train", photos, "--output-dir", "run", *few, *model)
    told = run(*order, PYTHONPROFILEIMPORTTIME="1").stderr
    loaded = {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time")}
    assert "torch" in loaded
    assert not loaded & NOT_FOR_ONE_MACHINE
    assert (elsewhere / "run" / "report.html").stat().st_size > 10_000
    answered = run(sys.executable, "-m", "unfreeze", "predict", "run", photos, "--json").stdout
    predictions = json.loads(answered)["predictions"]
    assert len(predictions) == len(list(photos.rglob("*.png")))
    assert {row["label"] for row in predictions} <= {"green", "red"}
