"""What importing costs, and what is public."""

import json
import subprocess
import sys

import pytest

import unfreeze

HEAVY = ("torch", "torchvision", "timm", "transformers", "sklearn", "pyarrow", "openvino", "peft", "pandas")


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
