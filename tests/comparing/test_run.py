"""The whole comparison on a training that costs nothing: what is kept, what is refused, what goes on."""

import dataclasses
import json
import os
import shutil
import time

import pytest
import timm
import torch
from safetensors.torch import save_file

from unfreeze import run
from unfreeze.comparing.cells import RECORD
from unfreeze.comparing.request import make_request
from unfreeze.comparing.run import compare
from unfreeze.config import TrainRequest
from unfreeze.errors import RequestError, StoppedError, UnfreezeError
from unfreeze.training import probing

SETTINGS = {"backbone": "efficientnet-lite0", "image_size": 64}
ALL = [(name, seed) for seed in (0, 1) for name in ("feature-extraction", "partial", "full")]


@pytest.fixture
def call(photos, tmp_path, recorder):
    """Compares the toy photographs in ``tmp_path / out``."""

    def make(*, data=None, base=None, output_dir=None, **said):
        given = {"strategies": "partial,full", "seeds": 2} | said
        request = make_request(
            TrainRequest(data=str(data or photos), **(SETTINGS | (base or {}))),
            output_dir=output_dir or tmp_path / "out",
            **given,
        )
        return compare(request, progress=recorder)

    return make


def test_every_cell_is_a_run_folder_with_its_record_beside_results_and_page(
    call, trainer, tmp_path, recorder
):
    comparison = call()
    assert trainer.cells == ALL
    folder = tmp_path / "out"
    for name, seed in ALL:
        cell = folder / "cells" / f"{name}-seed{seed}"
        assert (cell / "bundle.json").is_file()
        assert json.loads((cell / RECORD).read_text())["result"]["state"] == "finished"
    assert {path.name for path in folder.iterdir()} >= {
        "cells",
        "compare.html",
        "compare.json",
        "results.json",
    }
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(comparison.to_dict()))
    assert "6 trainings: 3 strategies, 2 seeds." in recorder.said
    # After the first training of each strategy, and not after the others.
    left = [sentence.split(",")[0] for sentence in recorder.said if " trainings left, " in sentence]
    assert left == ["5 trainings left", "4 trainings left", "3 trainings left"]


def test_what_may_be_secret_in_a_url_is_not_written(trainer, photos, store, tmp_path):
    # In memory the query is a part of the name.
    url = "memory://b/photos?sig=Xq7Zp"
    store.put(str(photos), "/b/photos?sig=Xq7Zp", recursive=True)
    request = make_request(
        TrainRequest(data=str(photos), val=url, **SETTINGS),
        strategies="partial",
        seeds=1,
        output_dir=tmp_path / "out",
    )
    compare(request, command=f"unfreeze compare {photos} --val '{url}'")
    for name in ("compare.json", "results.json", "compare.html"):
        written = (tmp_path / "out" / name).read_text()
        assert "memory://b/photos" in written
        assert "Xq7Zp" not in written


def test_what_a_cell_says_of_itself_is_what_its_run_says(call, trainer, image_run, tmp_path):
    comparison = call(seeds=1, strategies="partial")
    cell = comparison.cells[0]
    assert cell.accuracy == image_run.run.test.accuracy == pytest.approx(cell.right.mean())
    assert len(cell.truth) == image_run.run.test.n
    assert len(set(cell.row_keys)) == image_run.run.test.n
    assert "rows" not in comparison.to_dict()["cells"][0]
    assert cell.learned_from == 28 - image_run.run.test.n
    # Validation rows that were given are none of them: the run says so.
    trainer.source = dataclasses.replace(image_run.run, learned_from=9)
    again = call(seeds=1, strategies="partial", output_dir=tmp_path / "given")
    assert (again.cells[0].learned_from, again.results[0].rows) == (9, 9)
    marks = image_run.run.copy_marks
    assert len(marks) == image_run.run.test.n
    assert (cell.copy_marks, cell.nearest_copy) == (marks, image_run.run.nearest_copy)
    # The head alone: classes x (width + 1), over several depths or the last.
    assert cell.trained % 2 == 0
    assert 2 * 320 < cell.trained < cell.parameters == image_run.run.report.backbone.parameters + cell.trained
    assert cell.seconds < image_run.run.seconds
    assert cell.seconds + cell.shared_seconds == pytest.approx(image_run.run.seconds)


def test_what_auto_chose_is_kept_and_older_records_go_without(call, trainer, tmp_path, monkeypatch):
    def train(request, **rest):
        run = trainer(request, **rest)
        return dataclasses.replace(run, strategy="lora") if request.strategy == "auto" else run

    monkeypatch.setattr("unfreeze.comparing.cells.train", train)
    comparison = call(seeds=1, strategies="auto,partial")
    assert [cell.chosen for cell in comparison.cells] == ["", "lora", ""]
    for path in (tmp_path / "out" / "cells").glob(f"*/{RECORD}"):
        record = json.loads(path.read_text())
        del record["result"]["chosen"]
        path.write_text(json.dumps(record))
    again = call(seeds=1, strategies="auto,partial", resume=True)
    assert [cell.chosen for cell in again.cells] == ["", "", ""]


def test_resuming_trains_nothing_again(call, trainer, recorder):
    first = call()
    trainer.asked.clear()
    second = call(resume=True)
    assert trainer.asked == []
    assert second.results == first.results
    assert any("Finished already: 6." in sentence for sentence in recorder.said)


def test_a_record_from_before_rows_had_keys_is_read(call, trainer, tmp_path):
    first = call(seeds=1)
    for path in (tmp_path / "out" / "cells").glob(f"*/{RECORD}"):
        record = json.loads(path.read_text())
        del record["result"]["rows"]
        path.write_text(json.dumps(record))
    trainer.asked.clear()
    second = call(resume=True, seeds=1)
    assert trainer.asked == []
    assert second.results == first.results


def test_killed_in_the_middle_and_resumed_it_trains_the_rest_alone(call, trainer, recorder):
    trainer.raises[("full", 0)] = StoppedError(
        "Stopped as asked; the state is saved. Continue with --resume."
    )
    with pytest.raises(StoppedError) as stopped:
        call()
    assert stopped.value.exit_status == 75
    assert trainer.cells == ALL[:3]
    assert str(stopped.value).startswith(
        "Stopped as asked: 2 of 6 trainings finished and kept. Continue with"
    )
    trainer.asked.clear()
    trainer.raises.clear()
    comparison = call(resume=True)
    assert trainer.cells == ALL[2:]
    # The one that was stopped had a checkpoint: it is taken up, and what it took in all is not known.
    assert [request.resume for request in trainer.asked] == [True, None, None, None]
    assert [cell.seconds is None for cell in comparison.cells] == [False, False, True, False, False, False]
    assert len(comparison.results) == 3
    resumed = next(sentence for sentence in recorder.said if sentence.startswith("[3/6] full, seed 0"))
    assert resumed.endswith("% right.")
    assert not any("about 0.00 s" in sentence for sentence in recorder.said)


def test_what_is_left_is_estimated_from_trainings_of_the_same_strategy(call, trainer, recorder, monkeypatch):
    seconds = {"feature-extraction": 10.0, "partial": 100.0, "full": 1000.0}
    real = trainer.source

    class Timed:
        def __call__(self, request, **rest):
            trainer.source = dataclasses.replace(real, seconds=seconds[request.strategy] + shared)
            return trainer(request, **rest)

    shared = sum(entry.seconds for entry in real.report.timing if entry.part == "frozen pass")
    monkeypatch.setattr("unfreeze.comparing.cells.train", Timed())
    call()
    left = [sentence for sentence in recorder.said if " trainings left, " in sentence]
    # The floor says nothing of how long the others take: what is not known yet is not guessed.
    assert left == [
        "5 trainings left, at least 10.0 s.",
        "4 trainings left, at least 1 min 50 s.",
        "3 trainings left, about 18 min 30 s.",
    ]


def test_interrupted_before_it_has_begun_it_is_told_no_way_to_go_on(call, trainer, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unfreeze.comparing.run.open_folder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            call()
    assert trainer.cells == []
    call()
    assert trainer.cells == ALL


def test_an_interrupt_outside_of_thawing_stops_as_well(call, trainer):
    trainer.raises[("partial", 0)] = KeyboardInterrupt()
    with pytest.raises(StoppedError, match="1 of 6 trainings finished and kept"):
        call()


def test_a_cell_without_a_record_or_with_a_damaged_file_is_trained_again(call, trainer, tmp_path):
    call()
    trainer.asked.clear()
    cells = tmp_path / "out" / "cells"
    (cells / "full-seed0" / RECORD).unlink()
    # The folders share their files with the run they were copied from.
    weights = cells / "partial-seed1" / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-1] + b"\0\0")
    (cells / "full-seed1" / "bundle.json").unlink()
    call(resume=True)
    assert trainer.cells == [("full", 0), ("partial", 1), ("full", 1)]


def test_more_seeds_and_strategies_may_be_added(call, trainer):
    call(seeds=1)
    trainer.asked.clear()
    comparison = call(resume=True, seeds=2, strategies="partial,full,lora")
    assert trainer.cells == [("lora", 0), *ALL[3:], ("lora", 1)]
    assert [len(result.seeds) for result in comparison.results] == [2, 2, 2, 2]


def test_seeds_may_be_added_before_the_first(call, trainer):
    call(seeds=[1])
    trainer.asked.clear()
    comparison = call(resume=True, seeds=[0, 1])
    assert trainer.cells == ALL[:3]
    assert [len(result.seeds) for result in comparison.results] == [2, 2, 2]


def test_a_comparison_from_before_its_first_seed_was_kept_goes_on(call, trainer, tmp_path):
    record = tmp_path / "out" / "compare.json"
    call(seeds=[1])
    written = json.loads(record.read_text())
    assert written.pop("seed") == 1
    record.write_text(json.dumps(written))
    trainer.asked.clear()
    call(resume=True, seeds=[1, 0])
    assert trainer.cells == ALL[:3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": {"epochs": 3}}, "--epochs (then nothing, now '3')"),
        ({"base": {"image_size": 96}}, "--image-size (then '64', now '96')"),
        ({"base": {"val": 0.3}}, "other data"),
    ],
)
def test_other_settings_are_refused_by_name(call, trainer, changes, words):
    call(seeds=1)
    trainer.asked.clear()
    with pytest.raises(RequestError) as refused:
        call(resume=True, seeds=1, **changes)
    assert words in str(refused.value)
    assert refused.value.exit_status == 2
    assert trainer.asked == []


def test_other_data_are_refused_even_where_only_a_pixel_differs(call, trainer, photos, tmp_path):
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    call(data=data, seeds=1)
    shutil.copy(data / "red" / "00.png", data / "red" / "01.png")
    with pytest.raises(RequestError, match="was made with other data"):
        call(data=data, seeds=1, resume=True)


@pytest.mark.parametrize("how", ["backbone", "backbones"])
def test_weights_that_a_file_holds_instead_of_others_are_refused(call, trainer, loaded, tmp_path, how):
    file = tmp_path / "vit.safetensors"

    def compared(seed, **said):
        torch.manual_seed(seed)
        network = timm.create_model("test_vit", num_classes=0, img_size=64)
        save_file(network.state_dict(), file)
        name = f"timm:test_vit@{file}"
        loaded.pop((name, 64), None)
        one = how == "backbone"
        given = {"base": {"backbone": name if one else None}} | ({} if one else {"backbones": name})
        return call(seeds=1, **given, **said)

    compared(0)
    trainer.asked.clear()
    compared(0, resume=True)
    assert trainer.asked == []
    with pytest.raises(RequestError, match="other settings, data or weights of the backbone"):
        compared(1, resume=True)


@pytest.mark.timeout(60)
def test_a_folder_is_not_taken_from_anybody(call, trainer, tmp_path):
    call(seeds=1)
    with pytest.raises(
        RequestError, match=r"holds a comparison already\. Continue it or add to it with --resume"
    ):
        call(seeds=1)
    (tmp_path / "other").mkdir()
    with pytest.raises(RequestError, match="holds no comparison"):
        call(output_dir=tmp_path / "other", resume=True)
    # A pipe would be waited for.
    os.mkfifo(tmp_path / "other" / "compare.json")
    with pytest.raises(RequestError, match="holds no comparison"):
        call(output_dir=tmp_path / "other", resume=True)
    import filelock

    with (
        filelock.FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(RequestError, match="Another process is working"),
    ):
        call(seeds=1, resume=True)


def test_a_failure_is_shown_and_the_others_go_on(call, trainer, tmp_path, recorder):
    trainer.raises[("partial", 0)] = UnfreezeError("The toy fails.")
    trainer.raises[("partial", 1)] = RuntimeError("CUDA out of memory")
    comparison = call()
    assert trainer.cells == ALL
    assert comparison.failures == (
        ("partial (seed 0)", "The toy fails."),
        ("partial (seed 1)", "RuntimeError: CUDA out of memory"),
    )
    assert any("partial, seed 0 failed: The toy fails." in sentence for sentence in recorder.said)
    record = json.loads((tmp_path / "out" / "cells" / "partial-seed1" / RECORD).read_text())
    assert "Traceback" in record["traceback"]
    trainer.asked.clear()
    trainer.raises.clear()
    assert call(resume=True).failures == ()
    assert trainer.cells == [("partial", 0), ("partial", 1)]


def test_where_everything_fails_the_work_has_failed(call, trainer, tmp_path):
    for cell in ALL:
        trainer.raises[cell] = UnfreezeError("The toy fails.")
    with pytest.raises(UnfreezeError, match=r"Nothing of this comparison finished.*The toy fails") as failed:
        call()
    assert failed.value.exit_status == 1
    assert "The toy fails." in (tmp_path / "out" / "compare.html").read_text()


def test_the_usual_strategies_are_those_that_fit_the_backbone(call, trainer):
    comparison = call(strategies=None, seeds=1)
    named = [result.strategy for result in comparison.results]
    # No adapters, since a convolutional network has no blocks, and no random weights.
    assert named == ["feature-extraction", "partial", "gradual", "discriminative", "full", "lora"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"strategies": "adapters"}, "has none"),
        ({"strategies": "partial:freeze=99"}, "--freeze"),
        ({"train_size": "10,900"}, "--train-size 900 is more than the"),
        ({"train_size": "2,20"}, "--train-size 2 is too small"),
        ({"base": {"backbone": "efficientnet-lit0"}}, "efficientnet-lit0"),
        ({"base": {"backbone": None}, "backbones": "efficientnet-lite0,nothing-like-it"}, "nothing-like-it"),
        ({"data": "no/such/data"}, "does not exist"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(call, trainer, tmp_path, said, words):
    with pytest.raises(RequestError) as refused:
        call(**said)
    assert words in str(refused.value)
    assert trainer.asked == []
    assert not (tmp_path / "out").exists()


def test_each_size_is_trained_with_its_rows_and_draws_a_curve(call, trainer):
    comparison = call(strategies="partial", seeds=2, train_size=(8, 12, 16))
    sizes = [(request.strategy, request.seed, request.train_size) for request in trainer.asked]
    assert sizes[:4] == [
        ("feature-extraction", 0, 8),
        ("partial", 0, 8),
        ("feature-extraction", 0, 12),
        ("partial", 0, 12),
    ]
    assert len(sizes) == 12
    assert [curve.strategy for curve in comparison.curves] == ["feature-extraction", "partial"]
    assert [len(verdict.sentences[0]) > 0 for verdict in comparison.verdicts] == [True] * 3
    assert any(sentence.startswith("Would more labels help?") for sentence in comparison.sentences)


def test_strategies_on_several_backbones_have_their_own_floors(call, trainer, monkeypatch):
    from unfreeze.comparing.ranking import Ranked

    monkeypatch.setattr(
        "unfreeze.comparing.run.probe_backbone",
        lambda name, base, seeds, progress: Ranked(backbone=name, state="failed", sentence="Not now."),
    )
    comparison = call(
        base={"backbone": None},
        backbones="efficientnet-lite0,tf_efficientnet_lite0",
        strategies="partial",
        seeds=1,
    )
    assert [request.backbone for request in trainer.asked] == [
        "efficientnet-lite0", "efficientnet-lite0", "tf_efficientnet_lite0", "tf_efficientnet_lite0",
    ]  # fmt: skip
    assert [result.to_floor is None for result in comparison.results] == [True, False, True, False]
    assert comparison.several
    assert "on efficientnet-lite0" in comparison.sentences[0]


def test_the_floor_beside_each_result_is_read_from_the_store(
    call, tiny_cnn, plain_torch, monkeypatch, tmp_path
):
    passes, real = [], probing.compute_features

    def counting(dataset, backbone, *, rows, **settings):
        passed = real(dataset, backbone, rows=rows, **settings)
        if list(rows) == list(dataset.rows("test")):
            passes.append((backbone.weights_hash, passed.computed))
        return passed

    def slowly(*given, test_floor=run.test_floor):
        time.sleep(0.2)
        return test_floor(*given)

    monkeypatch.setattr(probing, "compute_features", counting)
    monkeypatch.setattr(run, "test_floor", slowly)
    base = {"backbone": tiny_cnn, "image_size": 32, "epochs": 1, "device": "cpu"}
    comparison = call(base=base, strategies="partial,full", seeds=1)
    count, untouched = len(comparison.cells[0].truth), passes[0][0]
    # The floor's own numbers come from the raw inputs; what one of the others has computed is there for all.
    assert [computed for weights, computed in passes if weights == untouched] == [count, count, 0]
    assert [computed for weights, computed in passes if weights != untouched] == [count, count]
    floor, *thawed = comparison.cells
    assert {cell.copy_marks for cell in thawed} == {floor.copy_marks}
    for cell in thawed:
        metrics = json.loads((tmp_path / "out" / "cells" / f"{cell.strategy}-seed0/metrics.json").read_text())
        assert metrics["baselines"][-1]["kind"] == "probe"
        assert metrics["baselines"][-1]["accuracy"] == floor.accuracy
        # Shared as the frozen pass is: no strategy's time has it, whichever is trained first.
        assert cell.shared_seconds >= 0.2
