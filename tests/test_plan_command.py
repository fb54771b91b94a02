"""``unfreeze plan``: facts, costs and a choice, and nothing trained or left behind."""

import io
import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from unfreeze.choose.settings import Decisions, record_data
from unfreeze.config import TrainRequest
from unfreeze.errors import DataError, RequestError
from unfreeze.planned import choose_by_rules, look_ahead
from unfreeze.progress import Silent
from unfreeze.training.costing import CostModel, draw_sample
from unfreeze.training.facing import gather_facts
from unfreeze.training.material import Material
from unfreeze.training.planning import make_plan
from unfreeze.training.prepare import frozen_pass, open_backbone, pick_executor, read_data
from unfreeze.training.probing import probe_features

SETTINGS = ("--backbone", "efficientnet-lite0", "--image-size", "64", "--epochs", "2", "--batch-size", "8")


def material_of(data, **settings):
    decisions = Decisions(TrainRequest(data=str(data), **settings))
    dataset = read_data(decisions.request)
    record_data(decisions, dataset)
    backbone = open_backbone(dataset, decisions, Silent())
    _, executor = pick_executor(backbone, dataset, decisions, Silent())
    features = frozen_pass(backbone, dataset, executor, decisions, Silent())
    probe = probe_features(dataset, features, backbone, decisions, Silent())
    return Material(dataset, backbone, features, executor, decisions, Silent()), probe


def plan_of(material, strategy, **settings):
    decisions = Decisions(TrainRequest(data="x", strategy=strategy, epochs=2, **settings))
    return make_plan(material.backbone, len(material.part("train")), len(material.dataset.labels), decisions)


@contextmanager
def plain(cache):
    """No executor but plain PyTorch, and a cache, for a fixture that many tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE", str(cache))
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        yield patch


@pytest.fixture(scope="module")
def pictures(photos, tmp_path_factory):
    with plain(tmp_path_factory.mktemp("cache")):
        return material_of(photos, backbone="efficientnet-lite0", image_size=64, batch_size=8)


@pytest.fixture(scope="module")
def texts(mails, tmp_path_factory):
    with plain(tmp_path_factory.mktemp("cache")):
        return material_of(mails, backbone="all-minilm-l6-v2", max_length=16)


def state_of(module):
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return tensors, {name: part.training for name, part in module.named_modules()}


def test_the_facts_of_pictures_match_the_data(pictures):
    material, probe = pictures
    material.backbone.module.train()
    tensors, modes = state_of(material.backbone.module)
    found = gather_facts(material, probe)
    after, modes_after = state_of(material.backbone.module)
    material.backbone.module.eval()
    assert all(np.array_equal(tensors[name], after[name]) for name in tensors)
    assert modes == modes_after
    value = {fact.name: fact.value for fact in found.entries}
    assert (value["rows"], value["classes"], value["modality"]) == (24, 2, "image")
    assert (value["least_rows_of_a_class"], value["imbalance"]) == (12, 1.0)
    assert value["image_pixels"] == 38
    assert value["near_duplicates"] == 0
    assert value["probe_accuracy"] == pytest.approx(probe.pooled.accuracy)
    assert value["shift_early"] > 0
    assert found.distance.shift.norms == 49
    # 24 pictures tell nothing of their up.
    assert found.turning is None


@pytest.fixture(scope="module")
def predicted(pictures):
    """A model that predicted two plans, what it said, and how the backbone was before."""
    material, _ = pictures
    before, model = state_of(material.backbone.module), CostModel(material)
    partial, full = (model.predict(plan_of(material, strategy)) for strategy in ("partial", "full"))
    return model, partial, full, before


def test_costs_are_predicted_without_touching_the_backbone(pictures, predicted):
    material, _ = pictures
    model, partial, full, (tensors, modes) = predicted
    spent = model.spent
    faster = model.predict(plan_of(material, "full", lr=1e-5))
    after, modes_after = state_of(material.backbone.module)
    assert all(np.array_equal(tensors[name], after[name]) for name in tensors)
    assert modes == modes_after
    assert not any(parameter.grad is not None for parameter in material.backbone.module.parameters())
    # Another rate takes the same time: nothing was measured again.
    assert faster == full
    assert model.spent - spent < spent / 4
    assert [phase.boundary for phase in (*partial.phases, *full.phases)] == [6, 0]
    assert all(cost.seconds > 0 for cost in (partial, full))
    assert full.disk_bytes == 0
    assert full.memory_bytes > partial.memory_bytes > 0
    assert {phase.rows for phase in partial.phases} == {len(material.part("train"))}


def test_no_copy_stays_on_the_device_when_it_is_measured(pictures, predicted, monkeypatch):
    material, _ = pictures
    model, *_ = predicted
    pace, places = CostModel._pace, {}

    def measured(self, plan, phase, sample):
        self._copy(plan)[0].module.to(torch.device("cuda"))
        return pace(self, plan, phase, sample)

    def to(self, device):
        places[self] = torch.device(device).type
        return self

    monkeypatch.setattr(CostModel, "_pace", measured)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    model.predict(plan_of(material, "full"))
    assert list(places.values()) == ["cpu"]


def test_what_an_accelerator_holds_of_a_store_counts_as_memory(pictures, predicted, monkeypatch):
    material, _ = pictures
    model, partial, full, _ = predicted
    plans = [plan_of(material, strategy) for strategy in ("partial", "full")]
    monkeypatch.setattr("unfreeze.choose.cost.is_stored", lambda group, *, boundary, **_: (boundary > 0, ""))
    without = [model.predict(plan).memory_bytes for plan in plans]
    monkeypatch.setattr("unfreeze.training.costing.has_room", lambda device, nbytes: True)
    held = [model.predict(plan).memory_bytes for plan in plans]
    assert held[0] - without[0] == partial.phases[0].store_bytes > 0
    assert held[1] == without[1] == full.memory_bytes


def test_a_look_at_the_drift_costs_what_lies_above_the_lowest_thawed_stage(pictures, predicted):
    material, _ = pictures
    model, partial, *_ = predicted
    (looks,) = model._looks.values()
    assert len(looks) == len(material.backbone.stages) + 1
    assert looks[-1] == 0 < looks[6] < looks[1] < looks[0]
    assert partial.around["features before"] == looks[0]


def test_train_and_validation_of_all_trials_are_made_of_squares_that_a_device_holds_once(pictures):
    material, _ = pictures
    train, val = material.part("train"), material.part("val")
    tasks = [
        material.task(plan_of(material, "full", augment=augment), train, val) for augment in ("none", "light")
    ]
    inputs = [part.inputs.whole for task in tasks for part in (task.train, task.val)]
    assert [one.augment for one in inputs] == ["none", "none", "light", "light"]
    assert len({id(one._resident) for one in inputs}) == 1
    assert inputs[0]._resident.squares is material.inputs().squares


def test_the_load_of_texts_is_that_of_their_batches(texts):
    material, _ = texts
    plan = plan_of(material, "full", batch_size=32)
    sample = draw_sample(material, plan)
    task = material.task(plan, material.part("train"), material.part("val"))
    batches = task.train.inputs.batches(0, 0, 32)
    assert sample.train.rows == len(material.part("train")) == sum(map(len, batches))
    assert sample.train.batches == len(batches)
    assert sample.train.units == sum(task.train.inputs.batch(rows, None).h.numel() for rows in batches)
    assert sample.val.rows == len(material.part("val"))
    assert sample.decoding > 0


@pytest.fixture(scope="module")
def outlook(photos, tiny_cnn, tmp_path_factory):
    """On a convolutional network so small that a few batches of each strategy take no time.

    The pictures are so easy that nothing would be tried.
    """
    with plain(tmp_path_factory.mktemp("cache")) as patched:
        patched.setattr("unfreeze.choose.candidates.NEAR_ROWS", 0)
        patched.setattr("unfreeze.training.choosing.hopeless", lambda *_: "")
        patched.setattr("unfreeze.planned.hopeless", lambda *_: "")
        return look_ahead(
            TrainRequest(
                data=str(photos),
                backbone=tiny_cnn,
                image_size=32,
                epochs=2,
                batch_size=8,
            )
        )


def test_a_head_that_is_fitted_anew_on_pairs_costs_a_pass_over_the_training_rows(texts):
    material, _ = texts
    model = CostModel(material)
    assert model.predict(plan_of(material, "full")).around["head fitted anew"] == 0
    pairs = model.predict(plan_of(material, "contrastive"))
    train, end = draw_sample(material, plan_of(material, "contrastive")).train, model._ends
    classifiers, start = 2, model._starts["fitted"]
    assert end.run.of(train) > 0 < start
    assert pairs.around["head fitted anew"] == pytest.approx(classifiers * (end.run.of(train) + start))


def test_every_strategy_that_fits_is_weighed_and_the_others_are_named(outlook):
    weighed = {option.plan.strategy for option in outlook.options}
    assert weighed == {"partial", "gradual", "discriminative", "full", "lora", "scratch"}
    assert [name for name, _ in outlook.unfit] == ["adapters", "contrastive"]
    for option in outlook.options:
        assert [phase.name for phase in option.cost.phases] == [phase.name for phase in option.plan.phases]
        assert len(option.phases) == len(option.plan.phases)
        for phase, words in zip(option.plan.phases, option.phases, strict=True):
            assert words.startswith(f"{phase.name}: {phase.epochs} epoch")
        assert 0 < option.cost.seconds <= option.cost.plain_seconds * 1.5
    assert any(option.candidate is not None for option in outlook.options)


def test_the_rules_choose_by_hope_and_price(outlook):
    assert choose_by_rules(outlook.options, "auto", floor_error=0.001).name == "feature-extraction"
    wrong = choose_by_rules(outlook.options, "auto", floor_error=0.4)
    hopes = {option.name: option.candidate.hope for option in outlook.options if option.candidate}
    assert wrong.name == max(hopes, key=hopes.get)
    assert "40.0%" in wrong.reason
    assert choose_by_rules((), "auto", floor_error=0.4).name == "feature-extraction"
    assert choose_by_rules((), "lora", floor_error=0.4).name == "lora"


def test_where_nothing_is_hoped_for_nothing_would_be_tried(photos, tiny_cnn, tmp_path):
    with plain(tmp_path):
        request = TrainRequest(data=str(photos), backbone=tiny_cnn, image_size=32, epochs=1, batch_size=8)
        found = look_ahead(request)
    assert found.choice.name == "feature-extraction"
    assert "which is not worth a trial" in found.choice.reason
    assert {option.reason for option in found.options} == {"not tried by --strategy auto"}
    assert {option.plan.strategy for option in found.options} == {
        *("partial", "gradual", "discriminative", "full", "lora", "scratch")
    }


def test_without_validation_rows_the_probe_would_be_taken(photos, tiny_cnn, tmp_path):
    for folder in photos.iterdir():
        (tmp_path / "few" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:3]:
            shutil.copy(path, tmp_path / "few" / folder.name)
    request = TrainRequest(data=str(tmp_path / "few"), backbone=tiny_cnn, image_size=32, batch_size=8)
    with plain(tmp_path / "cache"):
        found = look_ahead(request)
        with pytest.raises(DataError, match="leaves no validation rows"):
            look_ahead(replace(request, strategy="full"))
    assert found.options == ()
    assert found.choice.name == "feature-extraction"
    assert found.choice.reason.startswith("There are no validation rows")


def test_what_memory_has_no_room_for_is_named_and_not_promised(photos, tiny_cnn, tmp_path, monkeypatch):
    with plain(tmp_path) as patched:
        patched.setattr("unfreeze.training.choosing.hopeless", lambda *_: "")
        patched.setattr("unfreeze.choose.candidates.NEAR_ROWS", 0)
        patched.setattr("unfreeze.training.weighing._room_for_training", lambda _: 1000)
        found = look_ahead(
            TrainRequest(data=str(photos), backbone=tiny_cnn, image_size=32, epochs=1, batch_size=8)
        )
    assert not [option for option in found.options if option.candidate]
    named = dict(found.unfit)
    assert "of memory, and there are 1 kB" in named["full"]
    assert found.choice.name == "feature-extraction"


def test_a_strategy_that_breaks_the_network_is_named_and_ends_nothing(
    photos, tiny_cnn, tmp_path, monkeypatch
):
    def refuse(backbone, graft, sample):
        raise RequestError(f"{backbone.name} cannot run with what is grafted onto its layers.")

    monkeypatch.setattr("unfreeze.training.material.refuse_broken", refuse)
    with plain(tmp_path):
        found = look_ahead(
            TrainRequest(data=str(photos), backbone=tiny_cnn, image_size=32, epochs=1, batch_size=8)
        )
    assert dict(found.unfit)["lora"].endswith("cannot run with what is grafted onto its layers.")
    assert {"full", "scratch"} <= {option.plan.strategy for option in found.options}


def test_it_is_readable_at_eighty_columns(outlook):
    from rich.console import Console

    from unfreeze.report.outlook import print_outlook

    page = io.StringIO()
    print_outlook(outlook.to_dict(), Console(width=80, file=page))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in ("What is known", "What it would take", "What would be done", "By the rules alone"):
        assert part in text
    heading = next(line for line in lines if line.startswith("plan "))
    assert heading.split() == ["plan", "time", "(no", "store)", "memory", "disk"]
    for option in outlook.options:
        (row,) = (line for line in lines if line.startswith(f"{option.name}  "))
        assert "GB" in row or "MB" in row


def test_the_command_prints_one_object_and_leaves_no_run(command, photos, tmp_path, monkeypatch, plain_torch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    answer = command("plan", photos, *SETTINGS, "--strategy", "partial", "--json")
    assert answer.status == 0, answer.err
    told = json.loads(answer.out)
    assert [option["name"] for option in told["options"]] == ["partial"]
    assert told["choice_by_rules"]["name"] == "partial"
    assert told["facts"]["rows"]["value"] == 24
    assert told["options"][0]["phases"][0]["epochs"] == 2
    left = sorted(path.name for path in tmp_path.iterdir() if path.name != "unfreeze-cache")
    assert left == [name for name in before if name != "unfreeze-cache"]
    assert not (tmp_path / "runs").exists()


def test_for_the_probe_alone_there_is_nothing_to_weigh(command, photos, plain_torch):
    answer = command(
        "plan",
        photos,
        "--backbone",
        "efficientnet-lite0",
        "--image-size",
        "64",
        "--strategy",
        "feature-extraction",
    )
    assert answer.status == 0, answer.err
    assert "What is known" in answer.out
    assert "What it would take" not in answer.out
    assert "nothing was trained but the probe" in answer.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere"),
        (("PHOTOS", "--strategy", "adapters", *SETTINGS), "blocks of a transformer"),
        (("PHOTOS", "--strategy", "everything"), "is unknown"),
        (("PHOTOS", "--strategy", "full", "--time-limit", "5m"), "--time-limit"),
        (("PHOTOS", "--epochs", "0"), "--epochs"),
        (("PHOTOS", "--config", "missing.yaml"), "missing.yaml"),
    ],
)
def test_a_bad_request_is_a_sentence_and_status_2(command, photos, plain_torch, arguments, words):
    answer = command("plan", *(photos if part == "PHOTOS" else part for part in arguments))
    assert answer.status == 2
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
