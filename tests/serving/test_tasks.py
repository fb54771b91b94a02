"""Runs on the same network share it, and none is served that does not give its own answers."""

import shutil
from pathlib import Path

import pytest

from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.executors.torch_ import TorchExecutor
from unfreeze.serving.batching import Row
from unfreeze.serving.limits import Limits
from unfreeze.serving.tasks import Registry, named_runs


@pytest.fixture
def registry():
    made = Registry(Limits(wait=0.0))
    yield made
    made.close()


def answers(task, texts, tasks=None):
    values = [task.host.prepare(text)[0] for text in texts]
    return [future.result(30) for future in task.host.submit(values, tasks or (task.name,), seconds=30)]


def test_runs_on_one_network_share_it_and_answer_as_by_themselves(registry, text_run, other_mails):
    first = registry.put("first", text_run.run.folder)
    second = registry.put("second", other_mails.folder)
    assert first.host is second.host
    assert first.classifier.backbone is second.classifier.backbone
    assert first.run != second.run
    texts = ["claim your prize", "the minister on Monday", "?"]
    found = answers(first, texts, ("first", "second"))
    for name, run in (("first", text_run.run), ("second", other_mails)):
        for row, wanted in zip(found, run.model().predict_proba(texts), strict=True):
            assert row[name] == pytest.approx(wanted, abs=1e-5)


def test_a_network_leaves_with_its_last_task(registry, text_run, image_run):
    registry.put("mails", text_run.run.folder)
    registry.put("photos", image_run.run.folder)
    assert len(registry.hosts) == 2
    registry.remove("mails")
    assert [host.tasks for host in registry.hosts] == [("photos",)]
    with pytest.raises(KeyError):
        registry.remove("mails")
    # The name is free for a task on another network.
    assert registry.put("photos", text_run.run.folder).host.backbone.modality == "text"
    assert len(registry.hosts) == 1


def test_a_task_removed_while_its_row_waits_is_missing_in_the_answer(registry, text_run, other_mails):
    first = registry.put("first", text_run.run.folder)
    registry.put("second", other_mails.folder)
    row = Row(first.host.prepare("cash")[0], ("first", "second"), 0.0)
    registry.remove("first")
    (answer,) = first.host._compute([row])
    assert set(answer) == {"second"}


def test_a_run_whose_answers_are_others_here_is_not_served(registry, text_run, monkeypatch):
    run = TorchExecutor.__call__

    def shifted(self, batch):
        passed = run(self, batch)
        return type(passed)(tuple(summary + 1 for summary in passed.summaries), passed.states)

    monkeypatch.setattr(TorchExecutor, "__call__", shifted)
    with pytest.raises(UnfreezeError, match="does not give the answers it was saved with"):
        registry.put("mails", text_run.run.folder)
    assert not registry.tasks
    assert not registry.hosts


def test_a_tampered_run_on_a_shared_network_is_refused(registry, text_run, tmp_path):
    registry.put("mails", text_run.run.folder)
    shutil.copytree(text_run.run.folder, tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(RequestError, match="was changed after the run was saved"):
        registry.put("copy", tmp_path / "copy")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "a\n", "é"])
def test_a_name_that_could_be_a_path_is_refused(registry, text_run, name):
    with pytest.raises(RequestError, match="cannot name a task"):
        registry.put(name, text_run.run.folder)


def test_a_run_whose_folder_gives_no_name_is_to_be_given_one(tmp_path):
    with pytest.raises(RequestError, match=r"'Solar Cells' cannot name a task.*: NAME=FOLDER\."):
        named_runs([f"{tmp_path}/Solar Cells"])


def test_runs_are_named_by_their_folder_or_by_the_user(tmp_path):
    assert named_runs([f"{tmp_path}/cells", f"mails={tmp_path}/run-3"]) == {
        "cells": tmp_path / "cells",
        "mails": tmp_path / "run-3",
    }
    assert named_runs([f"{tmp_path}/a=b/c"]) == {"c": Path(f"{tmp_path}/a=b/c")}
    with pytest.raises(RequestError, match="Two runs are named 'cells'"):
        named_runs(["one/cells", "two/cells"])
