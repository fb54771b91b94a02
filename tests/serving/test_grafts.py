"""LoRA and adapters of many tasks on one network: each row has its own run's answer, whoever shares its batch."""

import gc
import json
import shutil
import weakref
from functools import cache

import numpy as np
import pytest
from fastapi.testclient import TestClient

import unfreeze
from unfreeze.bundle.folder import ADAPTER_FILES, HEAD
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.explaining import explain_image, explain_text
from unfreeze.grafts.rowwise import Rowwise
from unfreeze.runtime.files import file_hash
from unfreeze.serving.app import Access, make_app
from unfreeze.serving.batching import Row
from unfreeze.serving.hosting import Observer
from unfreeze.serving.limits import Limits
from unfreeze.serving.meters import Meters
from unfreeze.serving.tasks import Registry
from unfreeze.serving.weights import Source

# Sums in another order: probabilities of a run by itself, whose update is merged into the weights, agree to this.
TOLERANCE = 1e-5
# Different ranks, scalings, targets and blocks, heads of different sizes, and a run without a graft.
TASKS = {
    "vit": {
        "wide": {"patterns": ("linear",), "rank": 8, "alpha": 16.0, "classes": 5},
        "narrow": {"patterns": ("qkv",), "rank": 2, "alpha": 32.0, "classes": 2},
        "top": {"patterns": ("attention",), "rank": 3, "blocks": 2},
        "small": {"reduction": 4, "classes": 4},
        "smaller": {"reduction": 16},
        "plain": {"classes": 7},
    },
    "text": {
        "wide": {"patterns": ("linear",), "rank": 8, "alpha": 16.0, "classes": 5},
        "top": {"patterns": ("attention",), "rank": 2, "blocks": 1, "alpha": 32.0},
        "small": {"reduction": 16, "classes": 4},
        "plain": {"classes": 2},
    },
    "cnn": {
        "wide": {"patterns": ("linear",), "rank": 4, "classes": 5},
        "top": {"patterns": ("linear",), "rank": 2, "blocks": 2, "alpha": 32.0},
        "plain": {"classes": 2},
    },
}


@pytest.fixture(scope="session")
def folders(make_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("grafts")
    made = {}
    for base, tasks in TASKS.items():
        for seed, (name, settings) in enumerate(tasks.items()):
            made[base, name] = make_run(root / base / name, base, seed=seed, **settings)
    return made


@pytest.fixture
def registry():
    made = Registry(Limits(wait=0.0))
    yield made
    made.close()


def raw(value):
    return value if isinstance(value, str) else value.read_bytes()


def together(host, asked):
    """The answers of one batch: ``asked`` holds pairs of a raw input and tasks."""
    return host._compute([Row(host.prepare(raw(value))[0], tasks, 0.0) for value, tasks in asked])


@cache
def wanted(folder, value):
    """The answer of the run by itself."""
    return unfreeze.load(folder).predict_proba([value])[0]


@pytest.mark.parametrize("base", TASKS)
def test_rows_of_all_kinds_of_tasks_in_one_batch_have_their_own_runs_answers(base, bases, folders, registry):
    tasks = {name: registry.put(name, folders[base, name]) for name in TASKS[base]}
    (host,) = registry.hosts
    alone = {name: unfreeze.load(folders[base, name]) for name in tasks}
    inputs = list(bases[base].inputs)
    asked = [(value, (name,)) for value in inputs for name in tasks]
    forwards, run = [], Rowwise.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rowwise, "__call__", lambda *given: forwards.append(len(given[1].h)) or run(*given))
        found = together(host, asked)
    # Once through the network, the rows without a graft among them.
    assert forwards == [len(asked)]
    predicted = {name: model.predict_proba(inputs) for name, model in alone.items()}
    for (value, (name,)), row in zip(asked, found, strict=True):
        assert row[name] == pytest.approx(predicted[name][inputs.index(value)], abs=TOLERANCE)
    # The grafts matter: without them the same heads answer otherwise.
    bare = host.backbone
    for name, task in tasks.items():
        if task.source.grafted:
            features = alone[name].features(inputs)
            plain = type(alone[name])(replaced(alone[name].classifier, backbone=bare)).features(inputs)
            assert np.abs(features - plain).max() > 1e-2 * np.abs(plain).max(), name


def replaced(classifier, **fields):
    return type(classifier)(**(vars(classifier) | fields))


def test_another_graft_costs_its_own_weights_alone(folders, registry):
    first = registry.put("wide", folders["text", "wide"])
    backbone = first.host.backbone
    before = registry.weights.size
    second = registry.put("top", folders["text", "top"])
    assert second.host is first.host
    assert second.base == first.base == backbone.weights_hash
    files = [folders["text", "top"] / name for name in (HEAD, ADAPTER_FILES[1])]
    assert 0 < registry.weights.size - before <= sum(file.stat().st_size for file in files)
    together(first.host, [("cash", ("wide",)), ("cash", ("top",))])
    shared = {tensor.data_ptr() for tensor in backbone.module.state_dict().values()}
    for task in (first, second):
        assert {
            tensor.data_ptr() for tensor in task.classifier.backbone.module.state_dict().values()
        } == shared


def test_a_rows_answer_does_not_depend_on_who_shares_its_batch(bases, folders, registry):
    for name in TASKS["text"]:
        registry.put(name, folders["text", name])
    (host,) = registry.hosts
    text = bases["text"].inputs[1]
    (alone,) = together(host, [(text, ("wide",))])
    for others in (["top"], ["plain", "small"], ["top", "top", "small", "plain"]):
        beside = together(host, [(text, (name,)) for name in (*others, "wide")])
        assert beside[-1]["wide"] == pytest.approx(alone["wide"], abs=TOLERANCE)


def test_rows_come_through_the_batches_and_the_observer_counts_them(bases, folders):
    counted = []
    registry = Registry(Limits(wait=0.0), Observer(computed=counted.append))
    tasks = [registry.put(name, folders["vit", name]) for name in ("wide", "top", "plain")]
    values = [tasks[0].host.prepare(raw(photo))[0] for photo in bases["vit"].inputs]
    futures = {task.name: task.host.submit(values, (task.name,), seconds=30) for task in tasks}
    for name, rows in futures.items():
        for photo, row in zip(bases["vit"].inputs, rows, strict=True):
            assert row.result(30)[name] == pytest.approx(wanted(folders["vit", name], photo), abs=TOLERANCE)
    registry.close()
    assert sum(counted) == 3 * len(values)


def test_a_task_that_becomes_one_with_a_graft_lends_it_to_no_row_that_waits(
    folders, registry, make_run, tmp_path
):
    other = registry.put("other", make_run(tmp_path / "other", "text", seed=9))
    registry.put("mails", folders["text", "plain"])
    row = Row(other.host.prepare("cash")[0], ("mails", "other"), 0.0)
    registry.put("mails", folders["text", "wide"])
    (answer,) = other.host._compute([row])
    assert set(answer) == {"other"}
    assert answer["other"] == pytest.approx(wanted(tmp_path / "other", "cash"), abs=TOLERANCE)


def test_a_task_that_becomes_one_with_a_graft_before_its_row_waits_is_404(
    folders, registry, make_run, tmp_path, monkeypatch
):
    host = registry.put("other", make_run(tmp_path / "other", "text", seed=9)).host
    registry.put("mails", folders["text", "plain"])
    submit = host.submit

    def late(*given, **settings):
        registry.put("mails", folders["text", "wide"])
        return submit(*given, **settings)

    monkeypatch.setattr(host, "submit", late)
    with TestClient(make_app(registry, Meters(), Access())) as client:
        found = client.post("/v1/predict", json={"tasks": ["mails", "other"], "texts": ["cash"]})
    assert found.status_code == 404
    assert "'mails' was removed or replaced" in found.json()["detail"]


def test_over_http_weights_that_are_gone_are_503_without_their_path(folders, tmp_path):
    shutil.copytree(folders["text", "wide"], tmp_path / "wide")
    registry = Registry(Limits(wait=0.0, adapters=0))
    for name, folder in (("wide", tmp_path / "wide"), ("plain", folders["text", "plain"])):
        registry.put(name, folder)
    (tmp_path / "wide" / HEAD).unlink()
    with TestClient(make_app(registry, Meters(), Access())) as client:
        for what in ("predict", "explain"):
            found = client.post(f"/v1/tasks/wide/{what}", json={"texts": ["cash"]})
            assert found.status_code == 503
            assert found.json()["detail"].startswith("the run of 'wide' cannot be read")
            assert str(tmp_path) not in found.json()["detail"]
        assert client.post("/v1/tasks/plain/predict", json={"texts": ["cash"]}).status_code == 200


def test_what_is_explained_is_the_task_with_its_graft(bases, folders, registry):
    task = registry.put("wide", folders["text", "wide"])
    registry.put("top", folders["text", "top"])
    text = bases["text"].inputs[3]
    pieces = explain_text(task.classifier, text, 1)
    assert [weight for _, weight in pieces] == pytest.approx(
        [weight for _, weight in explain_text(unfreeze.load(task.folder).classifier, text, 1)], abs=1e-3
    )
    for base in ("vit", "cnn"):
        photo = registry.put(base, folders[base, "wide"])
        pixels = photo.host.prepare(raw(bases[base].inputs[0]))[0]
        again = explain_image(unfreeze.load(photo.folder).classifier, pixels, 1)
        assert explain_image(photo.classifier, pixels, 1) == pytest.approx(again, abs=1e-2)


def test_over_http_several_tasks_are_asked_at_once_and_each_is_explained_with_its_graft(
    bases, folders, registry
):
    names = ("wide", "small", "plain")
    for name in names:
        registry.put(name, folders["text", name])
    text = bases["text"].inputs[0]
    with TestClient(make_app(registry, Meters(), Access())) as client:
        answers = client.post("/v1/predict", json={"tasks": names, "texts": [text]}).json()["answers"]
        for name, answer in zip(names, answers, strict=True):
            (prediction,) = answer["predictions"]
            expected = wanted(folders["text", name], text)
            assert (answer["task"], prediction["label"]) == (name, f"class {expected.argmax()}")
            assert prediction["probability"] == pytest.approx(expected.max(), abs=TOLERANCE)
        assert len({answer["base"] for answer in answers}) == 1
        for name in names:
            found = client.post(f"/v1/tasks/{name}/explain", json={"texts": [text]}).json()
            assert "".join(word["text"] for word in found["words"]) == text
        described = client.get("/v1/tasks").json()["tasks"]
        assert [(task["task"], task["executor"]) for task in described] == [
            (name, "torch-fp32") for name in names
        ]


def test_a_budget_that_is_no_size_is_refused(folders, command):
    answer = command("serve", folders["vit", "plain"], "--adapter-budget", "lots")
    assert answer.status == 2
    assert "--adapter-budget 'lots' is no size: write it like 8GB or 500MB." in answer.err


# -- what cannot share a pass, or a network


def test_a_network_that_mixes_rows_runs_a_pass_for_each_graft(bases, folders, registry, monkeypatch):
    run = Rowwise.__call__

    def mixing(self, batch, boundaries, parts):
        if len(parts) > 1:
            raise ValueError("does not keep its rows apart")
        return run(self, batch, boundaries, parts)

    monkeypatch.setattr(Rowwise, "__call__", mixing)
    for name in TASKS["vit"]:
        registry.put(name, folders["vit", name])
    (host,) = registry.hosts
    asked = [(photo, (name,)) for photo in bases["vit"].inputs for name in TASKS["vit"]]
    for (photo, (name,)), row in zip(asked, together(host, asked), strict=True):
        assert row[name] == pytest.approx(wanted(folders["vit", name], photo), abs=TOLERANCE)


def test_a_graft_that_cannot_be_added_gets_a_network_of_its_own(bases, folders, registry, monkeypatch):
    run = Rowwise.__call__

    def other(self, batch, boundaries, parts):
        return {boundary: found + 1 for boundary, found in run(self, batch, boundaries, parts).items()}

    monkeypatch.setattr(Rowwise, "__call__", other)
    plain = registry.put("plain", folders["vit", "plain"])
    wide = registry.put("wide", folders["vit", "wide"])
    assert plain.host is not wide.host
    assert not wide.source.grafted
    photo = bases["vit"].inputs[0]
    for task in (plain, wide):
        (row,) = together(task.host, [(photo, (task.name,))])
        assert row[task.name] == pytest.approx(wanted(task.folder, photo), abs=TOLERANCE)


def test_an_adapter_whose_answers_are_others_here_is_not_served(folders, registry, tmp_path):
    from safetensors.torch import load_file, save_file

    copied = shutil.copytree(folders["vit", "wide"], tmp_path / "copy")
    tensors = load_file(copied / ADAPTER_FILES[1])
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, copied / ADAPTER_FILES[1])
    mend(copied, ADAPTER_FILES[1])
    registry.put("plain", folders["vit", "plain"])
    with pytest.raises(UnfreezeError, match="does not give the answers it was saved with"):
        registry.put("wide", copied)
    assert list(registry.tasks) == ["plain"]
    assert len(registry.hosts) == 1


HOSTILE = {
    "rank": {"r": 2},
    "alpha": {"lora_alpha": 1e9},
    "scaling": {"use_rslora": True},
    "targets": {"target_modules": ["blocks.0.mlp.fc1"]},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_an_adapter_that_does_not_fit_the_shared_network_is_refused(change, folders, registry, tmp_path):
    registry.put("plain", folders["vit", "plain"])
    copied = shutil.copytree(folders["vit", "wide"], tmp_path / "copy")
    config = copied / ADAPTER_FILES[0]
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    mend(copied, ADAPTER_FILES[0])
    with pytest.raises(RequestError, match="its files contradict each other"):
        registry.put("wide", copied)


def mend(folder, name):
    """Give a file that was changed the hash that ``bundle.json`` asks for."""
    values = json.loads((folder / "bundle.json").read_text())
    values["files"][name] = file_hash(folder / name)
    (folder / "bundle.json").write_text(json.dumps(values))


# -- memory


@pytest.fixture
def photo(bases):
    return bases["vit"].inputs[0]


@pytest.fixture
def tight(folders, make_run, tmp_path):
    """A registry with room for two of its four tasks."""
    made = Registry(Limits(wait=0.0))
    made.put("first", folders["vit", "wide"])
    size = made.weights.size
    made.close()
    made = Registry(Limits(wait=0.0, adapters=int(2.5 * size)))
    for seed in range(4):
        folder = make_run(tmp_path / str(seed), "vit", seed=seed, patterns=("linear",), rank=8)
        made.put(f"task-{seed}", folder)
    yield made, size
    made.close()


def test_weights_that_were_not_asked_for_long_leave_and_come_back(tight, photo, tmp_path, monkeypatch):
    registry, size = tight
    (host,) = registry.hosts
    reads, updates, read = [], [], Source.read

    def noted(self, base):
        found = read(self, base)
        reads.append(self.folder.name)
        updates.append(weakref.ref(next(iter(found.updates.values()))))
        return found

    monkeypatch.setattr(Source, "read", noted)
    for order in (("task-2", "task-3"), ("task-0",), ("task-3",), ("task-2",)):
        together(host, [(photo, (name,)) for name in order])
        assert registry.weights.size <= 2.5 * size
    # 2 and 3 were loaded last; 0 takes the place of 2, the one used less recently, and 2 that of 0.
    assert reads == ["0", "2"]
    # More than there is room for in one batch: all are answered.
    found = together(host, [(photo, (f"task-{seed}",)) for seed in range(4)])
    for seed, row in enumerate(found):
        assert row[f"task-{seed}"] == pytest.approx(wanted(tmp_path / str(seed), photo), abs=TOLERANCE)
    assert registry.weights.size <= 2.5 * size
    gc.collect()
    assert sum(update() is not None for update in updates) == 2
    for name in list(registry.tasks):
        registry.remove(name)
    gc.collect()
    assert registry.weights.size == 0
    assert not [update for update in updates if update() is not None]


@pytest.mark.parametrize("name", [HEAD, ADAPTER_FILES[1]])
@pytest.mark.parametrize("how", ["changed", "gone", "cut"])
def test_weights_that_changed_on_disk_are_an_error_of_their_rows_alone(name, how, tight, photo, tmp_path):
    registry, _ = tight
    (host,) = registry.hosts
    file = tmp_path / "0" / name
    if how == "gone":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data if how == "changed" else data[:40])
    values = [host.prepare(photo.read_bytes())[0]]
    (bad,) = host.submit(values, ("task-0",), seconds=30)
    (good,) = host.submit(values, ("task-1",), seconds=30)
    with pytest.raises(RequestError, match=r"was changed after it was loaded|cannot be read|is damaged"):
        bad.result(30)
    assert good.result(30)["task-1"] == pytest.approx(wanted(tmp_path / "1", photo), abs=TOLERANCE)


def test_the_head_of_a_plain_run_is_read_again_too(photo, folders):
    registry = Registry(Limits(wait=0.0, adapters=0))
    task = registry.put("plain", folders["vit", "plain"])
    assert registry.weights.size == 0
    (row,) = together(task.host, [(photo, ("plain",))])
    assert row["plain"] == pytest.approx(wanted(task.folder, photo), abs=TOLERANCE)
    registry.close()
