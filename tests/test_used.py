"""The settings of a finished run say what precision and store came to, where they were left to choose."""

from types import SimpleNamespace

import pytest
import yaml

import unfreeze
from unfreeze.choose.settings import Decisions
from unfreeze.config import TrainRequest, read_config
from unfreeze.engine.ledger import PhaseRecord
from unfreeze.engine.task import Decided, Fit
from unfreeze.training.used import record_used


def used(fit=None, *, kept=True, notes=(), frozen="fp32", **asked):
    """The entries of precision and store after a training of these requests."""
    decisions = Decisions(TrainRequest(data="photos", **asked))
    decisions.record("executor", f"torch-{frozen}", "data", "cuda runs it")
    features, executor = SimpleNamespace(kept=kept, notes=notes), SimpleNamespace(precision=frozen)
    record_used(SimpleNamespace(decisions=decisions, features=features, executor=executor), fit)
    return decisions.entries["precision"], decisions.entries["store"]


def fit_of(**phases):
    """A training of phases, each with its precision and what it decided."""
    ledger = [
        PhaseRecord(name, (), (), {}, {}, precision, "x", "x") for name, (precision, _) in phases.items()
    ]
    return Fit(ledger=ledger, decided={name: one for name, (_, one) in phases.items() if one is not None})


ALONE = Decided(True, "The frozen part is stored.", "")
FASTER = Decided(False, "Nothing is frozen below it.", "Phase full computes in bf16: a step takes 1 ms.")


def test_the_probe_has_used_what_its_frozen_pass_has():
    precision, store = used()
    assert (precision.value, precision.origin) == ("fp32", "data")
    assert precision.reason == "The frozen pass: cuda runs it."
    assert (store.value, store.origin) == ("on", "data")
    assert store.reason == "The features of the frozen pass are kept in the cache folder."
    _, store = used(kept=False, notes=("Features are kept in memory only, since /x cannot be used: full.",))
    assert (store.value, store.origin) == ("off", "data")
    assert store.reason == "Features are kept in memory only, since /x cannot be used: full."


def test_phases_that_differ_are_told_apart():
    precision, store = used(fit_of(head=("fp32", ALONE), full=("bf16", FASTER)))
    assert precision.value == {"frozen pass": "fp32", "phase head": "fp32", "phase full": "bf16"}
    assert precision.reason == (
        "The frozen pass: cuda runs it. Phase head: there was no other to choose from. "
        "Phase full computes in bf16: a step takes 1 ms."
    )
    assert store.value == {"features": "on", "phase head": "on", "phase full": "off"}
    assert store.reason == (
        "The features of the frozen pass are kept in the cache folder. Phase head: The frozen part is stored. "
        "Phase full: Nothing is frozen below it."
    )


def test_what_was_asked_for_stays_and_says_where_it_came_to_something_else():
    precision, store = used(fit_of(head=("bf16", ALONE)), frozen="bf16", precision="bf16", store="on")
    assert [(one.value, one.origin, one.reason) for one in (precision, store)] == [
        ("bf16", "user", "asked for"),
        ("on", "user", "asked for"),
    ]
    precision, store = used(fit_of(full=("fp16", FASTER)), precision="fp16", store="on")
    assert (precision.value, precision.origin) == ("fp16", "user")
    assert precision.reason.startswith("asked for. The frozen pass: cuda runs it. ")
    assert (store.value, store.origin) == ("on", "user")
    assert store.reason.endswith("Phase full: Nothing is frozen below it.")
    _, store = used(fit_of(full=("fp32", FASTER)), kept=False, store="off")
    assert (store.value, store.reason) == ("off", "asked for")


def test_of_a_phase_that_an_older_version_began_only_its_precision_is_known():
    precision, store = used(fit_of(head=("fp32", None), full=("bf16", FASTER)))
    assert precision.value["phase head"] == "fp32"
    assert store.value == {"features": "on", "phase full": "off"}


def test_each_phase_of_a_run_says_what_it_was(photos, tiny_vit, tmp_path, monkeypatch, plain_torch):
    monkeypatch.setattr("unfreeze.engine.devices.precisions", lambda device, wanted: ("fp32", "bf16"))
    monkeypatch.setattr("unfreeze.engine.phase_precision.FEW_STEPS", 0)
    seconds = iter([(1.0, 0.5), (1.0, 1.5)])
    monkeypatch.setattr("unfreeze.engine.phase_precision._time_steps", lambda *_: next(seconds))
    # Not for all phases together, for the first alone, and for none of the others.
    pays = iter(["does not pay", "pays", *["does not pay"] * 3])
    monkeypatch.setattr("unfreeze.engine.storing.weigh_store", lambda *_, **__: next(pays))
    run = unfreeze.train(
        str(photos), output_dir=tmp_path / "run", backbone=tiny_vit, image_size=32, strategy="gradual", epochs=3,
        batch_size=8, device="cpu",
    )  # fmt: skip
    path = run.folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    assert "auto" not in [entry["value"] for entry in settings.values()]
    precision, store = settings["precision"], settings["store"]
    head, second, third = (f"phase {name}" for name in ("head", "last-stage", "last-third"))
    assert precision["value"] == {"frozen pass": "fp32", head: "fp32", second: "bf16", third: "fp32"}
    assert store["value"] == {"features": "on", head: "on", second: "off", third: "off"}
    assert precision["origin"] == store["origin"] == "data"
    assert "Phase head computes in fp32: it runs the head alone." in precision["reason"]
    assert (
        "Phase last-stage computes in bf16: a step takes 500.0 ms, 1000.0 ms in fp32" in precision["reason"]
    )
    assert "Phase head: The frozen part is stored: predicted" in store["reason"]
    assert "Phase last-third: The store does not pay: predicted" in store["reason"]
    # Who takes the settings up again lets them be chosen again.
    assert not {"precision", "store"} & read_config(path).keys()
    assert (
        "frozen pass fp32, phase head fp32, phase last-stage bf16" in (run.folder / "report.html").read_text()
    )


@pytest.mark.parametrize("strategy", ["feature-extraction", "full"])
def test_features_that_no_disk_takes_are_said_to_be_in_memory(
    photos, tiny_cnn, tmp_path, monkeypatch, plain_torch, strategy
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "file"))
    epochs = {} if strategy == "feature-extraction" else {"epochs": 1, "batch_size": 8}
    run = unfreeze.train(
        str(photos),
        output_dir=tmp_path / "run",
        backbone=tiny_cnn,
        image_size=32,
        strategy=strategy,
        **epochs,
    )
    store = yaml.safe_load((run.folder / "config.yaml").read_text())["store"]
    assert (store["value"], store["origin"]) == ("off", "data")
    assert store["reason"].startswith("Features are kept in memory only, since ")
    assert ("Nothing is frozen below it." in store["reason"]) == (strategy == "full")
