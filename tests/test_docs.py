"""The code in the documentation runs as it stands."""

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unfreeze import config
from unfreeze.strategies import STRATEGIES

DOCS = Path(__file__).parent.parent / "docs"
MORE = ("../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md", "../bench/RESULTS.md")


def code_of(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_a_plan_of_ones_own_is_fitted_in_fifteen_lines(capsys):
    code, _ = code_of("plans.md")
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 15
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    squares = (rng.integers(0, 120, (24, 224, 224, 3)) + 100 * y[:, None, None, None]).astype(np.uint8)
    found = {"squares": squares, "y": y, "train": np.arange(16), "val": np.arange(16, 24)}
    exec(code, found)
    assert [record.phase for record in found["result"].ledger] == ["norms", "last"]
    assert all(record.frozen_unchanged for record in found["result"].ledger)
    drift = found["result"].ledger[-1].drift
    assert drift["stem"] > 0
    assert "norms" in capsys.readouterr().out


def plain_text_encoder(t):
    """A toy whose pooling has no weights, as that of MiniLM; its embedding has neither biases nor norms."""
    backbone = t.toy("text")
    backbone.module.pool = torch.nn.Identity()
    return backbone


@pytest.mark.parametrize(("what", "mark"), [("bias", r"\.bias$"), ("norm", r"\.norm\d?\.")])
@pytest.mark.parametrize("kind", ["cnn", "text"])
def test_biases_or_norms_alone_are_trained_as_the_page_says(t, kind, what, mark):
    backbone = plain_text_encoder(t) if kind == "text" else t.toy(kind)
    _, code = code_of("plans.md")
    found = {"backbone": backbone}
    exec(code.replace('"bias"', f'"{what}"'), found)
    thawed = (0, 1, 2) if kind == "cnn" else (1, 2, 3)
    assert tuple((one.stage, one.what) for one in found["thaw"]) == tuple((stage, what) for stage in thawed)
    before = t.tensors_of(backbone)
    t.run(replace(found["plan"], batch_size=8), backbone, t.task_of(kind, val=0))
    after = t.tensors_of(backbone)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name, _ in backbone.module.named_parameters() if re.search(mark, name)}


def test_the_strategy_of_the_page_gives_a_plan():
    (code,) = code_of("add-a-strategy.md")
    from unfreeze import load_backbone
    from unfreeze.strategies.settings import StrategySettings

    found = {}
    exec(code, found)
    plan = found["plan"](
        load_backbone("efficientnet-lite0", modality="image"), StrategySettings(rows=500, classes=2)
    )
    assert [thaw.stage for thaw in plan.phases[0].thaw] == [0, 1]
    assert plan.phases[0].head_rate == pytest.approx(3e-3)


@pytest.fixture
def surgical(monkeypatch):
    """The strategy of the page, where the page says that it is put; it reads the settings that ``full`` reads."""
    (code,) = code_of("add-a-strategy.md")
    found = {}
    exec(code, found)
    monkeypatch.setitem(STRATEGIES, "surgical", found["plan"])
    for name in ("THAWING", "ON_CLASSES", "STRATEGIES"):
        monkeypatch.setattr(config, name, (*getattr(config, name), "surgical"))
    monkeypatch.setitem(config.CHOICES, "strategy", (*config.CHOICES["strategy"], "surgical"))
    for name, readers in config.READ_BY.items():
        if "full" in readers:
            monkeypatch.setitem(config.READ_BY, name, (*readers, "surgical"))
    return "surgical"


def held_by(file):
    """The module that a file of tests is."""
    spec = importlib.util.spec_from_file_location(f"held_{Path(file).stem}", Path(__file__).parent / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
def test_the_strategy_of_the_page_keeps_the_laws(t, surgical, kind, tmp_path):
    laws = held_by("strategies/test_laws.py")
    with pytest.MonkeyPatch.context() as patch:
        laws.test_each_trainable_parameter_stands_in_one_group_at_its_rate_at_every_step(
            t, (surgical, kind), patch
        )
    laws.test_what_is_frozen_keeps_its_bits_and_the_loss_falls(t, (surgical, kind))
    laws.test_stored_and_unstored_prefix_train_to_the_same_logits(t, (surgical, kind), tmp_path, half=False)


def test_the_strategy_of_the_page_holds_for_every_family(t, surgical):
    plans = held_by("strategies/test_strategies.py")
    for family in plans.BACKBONE_RATE:
        plans.test_every_plan_holds_for_every_family(t, surgical, family)
    plans.test_what_the_user_says_holds_in_every_phase(t, surgical)
    planning = held_by("strategies/test_planning.py")
    planning.test_a_strategy_that_the_classic_guide_has_not_is_refused_by_name(t, surgical)


def test_the_strategy_of_the_page_ignores_no_setting(t, surgical):
    planning = held_by("strategies/test_planning.py")
    read = [name for name, readers in config.READ_BY.items() if surgical in readers]
    assert {"schedule", "patience", "bn"} <= set(read)
    for name in read:
        planning.test_every_setting_changes_the_plan_of_each_strategy_that_reads_it(t, name, surgical)


def test_an_exported_model_answers_as_the_page_shows(image_run, image_onnx, tmp_path, monkeypatch, capsys):
    there = tmp_path / "runs" / "photos" / "exported" / "onnx"
    shutil.copytree(image_onnx.file.parent, there)
    picture = next(image_run.data.rglob("*.png"))
    (tmp_path / "new").mkdir()
    for name in ("one.jpg", "two.jpg"):
        shutil.copy(picture, tmp_path / "new" / name)
    ours, theirs, *_ = code_of("exporting.md")
    monkeypatch.chdir(tmp_path)
    exec(ours, {})
    assert capsys.readouterr().out.startswith("new/one.jpg ")
    monkeypatch.chdir(there)
    exec(theirs, {})
    assert capsys.readouterr().out.strip() in ("green", "red")


def test_every_test_that_a_promise_names_is_there():
    named = re.findall(r"([\w/]+\.py)::(\w+)", (DOCS / "reliability.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    for file, test in named:
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), (file, test)


@pytest.mark.parametrize("page", [*sorted(path.name for path in DOCS.glob("*.md")), *MORE])
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", (DOCS / page).read_text(encoding="utf-8")
    ):
        file = (DOCS / page).parent / target if target else DOCS / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def test_every_page_is_named_in_the_readme_and_scaling_is_one_page():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    pages = [path.name for path in DOCS.glob("*.md")]
    assert [page for page in pages if f"(docs/{page})" not in readme] == []
    assert len((DOCS / "scaling.md").read_text(encoding="utf-8").splitlines()) <= 60
