"""The whole adaptation: from a run and a target to a run of its own, with the target's labels out of reach."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import unfreeze
from unfreeze.adapting import opening, passes
from unfreeze.adapting import run as module
from unfreeze.adapting.gate import Verdict, decide
from unfreeze.adapting.opening import open_labels
from unfreeze.adapting.passes import Passes, has_statistics, restate
from unfreeze.adapting.request import AdaptRequest
from unfreeze.backbones import load_backbone
from unfreeze.bundle.loading import load
from unfreeze.contracts import State
from unfreeze.data.memory import SOURCE
from unfreeze.engine import choice
from unfreeze.errors import DataError, RequestError
from unfreeze.executors import ExecutorError
from unfreeze.training.reopening import open_source

SIDE = 36


@pytest.fixture(autouse=True)
def _plain(plain_torch):
    """Plain PyTorch alone."""


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The photographs' classes once more, through another camera: dark, with a colour cast."""
    root = tmp_path_factory.mktemp("moved") / "target"
    random = np.random.default_rng(8)
    for name, colour in {"green": (70, 150, 80), "red": (150, 80, 70)}.items():
        (root / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.normal(np.array(colour) + random.normal(0, 25, 3), 20, (SIDE, SIDE, 3))
            cast = 0.35 * pixels + np.array((90, 0, 60))
            Image.fromarray(cast.clip(0, 255).astype(np.uint8)).save(root / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def adapted(image_run, moved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE", str(image_run.cache))
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        return unfreeze.adapt(image_run.run.folder, moved, output_dir=folder)


def answers(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_result_is_a_run_with_its_lineage(adapted, image_run, moved):
    loaded = load(adapted.folder)
    (before,) = loaded.bundle.lineage
    assert before.startswith(f"{image_run.run.folder.resolve()} ")
    assert loaded.bundle.data.source == str(moved)
    assert loaded.bundle.labels == load(image_run.run.folder).bundle.labels
    saved = answers(adapted.folder)
    assert len(saved) == 80
    assert json.loads((adapted.folder / "metrics.json").read_text())["validation"]["n"] > 0
    assert str(moved) in (adapted.folder / "README.md").read_text()
    given = adapted.model().predict([row["input"] for row in saved[:5]])
    for row, one in zip(saved, given, strict=False):
        assert row["label"] == one.label
        assert float(row["probability"]) == pytest.approx(one.probability, abs=1e-4)


def test_what_was_found_is_written_and_shown(adapted):
    found = json.loads((adapted.folder / "adaptation.json").read_text())
    assert found["verdict"] in ("adapted", "kept source", "needs labels")
    assert found == json.loads(json.dumps(adapted.to_dict()))
    assert {one["method"] for one in found["candidates"]} == {"norm", "align", "self-training"}
    assert "gradual" in found["not_possible"]
    assert set(found["source_shares"]) == set(found["shares"]) == set(adapted.labels)
    assert sum(found["source_shares"].values()) == pytest.approx(1)
    page = (adapted.folder / "report.html").read_text()
    for told in (*adapted.told, *adapted.verdict.reasons):
        # The first letter of a reason is made a capital.
        assert told.split("'")[0].split("(")[0].strip()[1:] in page.replace("\u00a0", " ")
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/jpeg") == 12
    assert "red, on the source" in page
    assert "The source's data is at hand".replace("'", "&#39;") in page


@pytest.mark.parametrize("verdict", ["adapted", "kept source", "needs labels"])
def test_each_verdict_leaves_the_model_it_speaks_of(image_run, moved, tmp_path, monkeypatch, verdict):
    method = "self-training" if verdict == "adapted" else None
    monkeypatch.setattr(module, "decide", lambda *_, **__: Verdict(verdict, method, ("told",)))
    done = unfreeze.adapt(image_run.run.folder, moved, output_dir=tmp_path / "run", method="self-training")
    before, now = (unfreeze.load(folder).classifier for folder in (image_run.run.folder, done.folder))
    same = np.array_equal(before.head.tensors["weight"], now.head.tensors["weight"])
    assert same == (verdict != "adapted")
    if verdict == "adapted":
        assert len(now.head.boundaries) == len(now.backbone.stages)
        assert load(done.folder).bundle.strategy == "adapted: self-training"
    assert (done.asked is None) == (verdict != "needs labels")


def test_statistics_of_the_target_are_saved_with_the_network(image_run, moved, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "decide", lambda *_, **__: Verdict("adapted", "norm", ("told",)))
    done = unfreeze.adapt(image_run.run.folder, moved, output_dir=tmp_path / "run", method="norm")
    before, now = (
        unfreeze.load(folder).classifier.backbone for folder in (image_run.run.folder, done.folder)
    )
    changed = {
        name
        for name, value in now.module.state_dict().items()
        if not torch.equal(value, before.module.state_dict()[name])
    }
    assert changed
    assert {name.rpartition(".")[2] for name in changed} <= {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert done.target_shares == pytest.approx(
        [np.mean([row["label"] == label for row in answers(done.folder)]) for label in done.labels]
    )


def test_the_labels_of_the_target_are_never_opened(image_run, moved, tmp_path, monkeypatch):
    """The folders tell the classes; opening them as labelled data, or a row with a label, would fail here."""

    def refuse(source, **_):
        raise AssertionError(f"labels of {source} were asked for")

    monkeypatch.setattr(opening, "load_whole", refuse)
    real, seen = module.build_scenery, []

    def watch(classifier, source, target, *rest, **given):
        seen.append(target.dataset.label)
        return real(classifier, source, target, *rest, **given)

    monkeypatch.setattr(module, "build_scenery", watch)
    unfreeze.adapt(image_run.run.folder, moved, output_dir=tmp_path / "run", method="align")
    assert set(np.unique(seen[0])) == {-1}
    with pytest.raises(AssertionError, match="asked for"):
        unfreeze.adapt(
            image_run.run.folder,
            moved,
            output_dir=tmp_path / "two",
            method="align",
            report_target_accuracy=True,
        )
    # All was decided and saved by then.
    assert (tmp_path / "two" / "bundle.json").is_file()


def test_shuffled_labels_of_the_target_change_nothing(image_run, moved, tmp_path):
    other = tmp_path / "swapped"
    for here, there in (("green", "red"), ("red", "green")):
        shutil.copytree(moved / here, other / there)
    one, two = (
        unfreeze.adapt(image_run.run.folder, target, output_dir=tmp_path / name, method="align")
        for name, target in (("one", moved), ("two", other))
    )
    assert one.verdict.kind == two.verdict.kind
    assert one.before.largest == two.before.largest


def test_accuracy_after_the_fact_is_that_of_evaluate(image_run, moved, tmp_path):
    done = unfreeze.adapt(
        image_run.run.folder, moved, output_dir=tmp_path / "run", method="align", report_target_accuracy=True
    )
    from unfreeze.evaluation import evaluate_run

    wanted = evaluate_run(image_run.run.folder, str(moved)).scores.accuracy
    assert done.after_the_fact["source model"]["accuracy"] == wanted
    assert "After the fact" in (done.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def labelled(moved, tmp_path_factory):
    """Makes a table with labels of as many of the target's rows as are wanted, of each class in turn."""
    folder = tmp_path_factory.mktemp("labelled")

    def make(count):
        files = [moved / ("green", "red")[place % 2] / f"{place // 2:02}.png" for place in range(count)]
        path = folder / f"{count}.csv"
        path.write_text("image,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))
        return path

    return make


def test_the_column_of_the_inputs_is_that_of_the_labelled_rows_too(text_run, tmp_path):
    classifier = load(text_run.run.folder).classifier
    request = AdaptRequest(run=text_run.run.folder, target=("new.csv",), column="letter")
    both = tmp_path / "both.csv"
    rows = (f"A title of letter {row},urgent cash offer of {row},spam" for row in range(6))
    both.write_text("\n".join(["title,letter,label", *rows]) + "\n")
    assert open_labels(str(both), request, classifier).samples.read(1) == "urgent cash offer of 1"
    with pytest.raises(
        DataError, match=r"unclear \(it could be 'title', 'letter'\)\. Name it with --column\."
    ):
        open_labels(str(both), replace(request, column=None), classifier)
    # What adapt itself wrote to be labelled, whose column has another name.
    written = tmp_path / "labels.csv"
    written.write_text("text,label,supposed,probability,from\n'@ urgent cash,spam,spam,0.5,row 1\n")
    assert open_labels(str(written), request, classifier).samples.read(0) == "@ urgent cash"


def test_labelled_rows_may_be_shards_and_the_named_label_is_no_input(text_run, tmp_path):
    classifier = load(text_run.run.folder).classifier
    kinds = ["spam", "ham"] * 6
    rows = pa.table({"letter": [f"urgent cash offer {row}" for row in range(12)], "kind": kinds})
    (tmp_path / "shards").mkdir()
    for part in range(2):
        pq.write_table(rows.slice(6 * part, 6), tmp_path / "shards" / f"{part}.parquet")
    request = AdaptRequest(run=text_run.run.folder, target=("new.csv",), label_column="kind")
    for column in (None, "letter", "elsewhere"):
        found = open_labels(str(tmp_path / "shards"), replace(request, column=column), classifier)
        assert found.samples.read(7) == "urgent cash offer 7"
        assert [found.labels.names[code] for code in found.label] == kinds


def test_a_labelled_row_that_cannot_be_read_is_left_out_of_new_statistics_too(
    image_run, moved, labelled, tmp_path, monkeypatch
):
    real = passes.executor_of_trained

    def measured(network, boundaries, *, like, batch):
        batch()
        return real(network, boundaries, like=like, batch=batch)

    monkeypatch.setattr(passes, "executor_of_trained", measured)
    table = labelled(6)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    table.write_text(f"{table.read_text().rstrip()}\n{broken},red\n")
    done = unfreeze.adapt(
        image_run.run.folder, moved, output_dir=tmp_path / "run", method="norm", target_labels=table
    )
    assert {"norm", "labels"} & {one.method for one in done.candidates}


def test_a_run_on_data_in_memory_is_adapted_without_the_source_that_is_named(
    image_run, photos, moved, tmp_path, monkeypatch, recorder
):
    loaded = load(image_run.run.folder)
    data = loaded.bundle.data.model_copy(update={"source": SOURCE})
    memory = replace(loaded, bundle=loaded.bundle.model_copy(update={"data": data, "strategy": "full"}))
    monkeypatch.setattr(module, "load", lambda _: memory)
    request = AdaptRequest(
        run=image_run.run.folder, target=(str(moved),), source=str(photos), output_dir=tmp_path / "run"
    )
    done = module.adapt(request, progress=recorder)
    assert any("not known which rows of the source it has seen" in said for said in recorder.said)
    assert done.on_source is None


def test_labels_decide_from_ten_on(image_run, moved, labelled, tmp_path):
    done = unfreeze.adapt(
        image_run.run.folder, moved, output_dir=tmp_path / "run", target_labels=labelled(20), method="labels"
    )
    assert (done.verdict.kind, done.verdict.method, done.verdict.labels) == ("adapted", "labels", 20)
    found = json.loads((done.folder / "adaptation.json").read_text())
    assert (found["decided_by"], found["labels_given"]) == ("labels", 20)
    assert load(done.folder).bundle.strategy == "adapted: labels"
    right = [row["label"] == row["input"].split("/")[-2] for row in answers(done.folder)]
    assert np.mean(right) > 0.8
    page = (done.folder / "report.html").read_text().replace("\u00a0", " ")
    card = (done.folder / "README.md").read_text()
    assert "The 20 labelled rows show that answers" in page
    assert "On the labels: points of accuracy" in page
    assert "The signs agree" not in page
    assert "20 labelled rows of the target took part" in card
    assert "No label of the target took part" not in card
    # What is saved reads the target's units: on the source's rows as they come it is scored once more.
    model, dataset = done.model(), open_source(load(image_run.run.folder), None)[0]
    rows = dataset.rows("val")
    probabilities, _ = model.probabilities(dataset.samples.select(rows))
    after = float((probabilities.argmax(axis=1) == dataset.label[rows]).mean())
    assert found["source_accuracy"]["after"] == done.on_source[1] == pytest.approx(after)
    for text in (page, card):
        assert f"this model is right on {100 * after:.1f}" in text
        assert "no longer for the source" in text


def test_rows_with_a_given_label_are_not_scored_after_the_fact(image_run, moved, labelled, tmp_path, command):
    table = labelled(20)
    done = command(
        *("adapt", image_run.run.folder, "--target", moved, "--output-dir", tmp_path / "run"),
        *("--method", "labels", "--target-labels", table, "--report-target-accuracy"),
    )
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "run" / "adaptation.json").read_text())
    taught = set(table.read_text().split())
    others = [row for row in answers(tmp_path / "run") if not any(row["input"] in line for line in taught)]
    assert len(others) == 60
    right = [row["label"] == row["input"].split("/")[-2] for row in others]
    assert found["after_the_fact"]["this model"]["accuracy"] == np.mean(right)
    assert found["after_the_fact_left_out"] == 20
    for text in (done.out, (tmp_path / "run" / "report.html").read_text().replace("\u00a0", " ")):
        assert "20 rows are left out, for both models" in text
    ignored = shutil.ignore_patterns("[123]*.png")
    done = unfreeze.adapt(
        *(image_run.run.folder, shutil.copytree(moved, tmp_path / "taught", ignore=ignored)),
        output_dir=tmp_path / "two",
        method="align",
        target_labels=table,
        report_target_accuracy=True,
    )
    assert (done.after_the_fact, done.left_out) == (None, 0)
    assert "The labels of all 20 rows of" in done.warning


def test_a_few_labels_are_learnt_from_and_said_to_be_few(image_run, moved, labelled, tmp_path):
    done = unfreeze.adapt(image_run.run.folder, moved, output_dir=tmp_path / "run", target_labels=labelled(6))
    assert "labels" in {one.method for one in done.candidates}
    assert done.verdict.labels == 0
    page = (done.folder / "report.html").read_text().replace("\u00a0", " ")
    for text in (page, (done.folder / "README.md").read_text()):
        assert "6 labels are fewer than the 10 that can decide" in text


def test_other_statistics_are_scored_on_the_source_in_the_changed_network(
    image_run, moved, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "decide", lambda *_, **__: Verdict("adapted", "norm", ("told",)))
    # A head that has not learnt from validation rows is scored as it is saved.
    monkeypatch.setattr(module, "FLOOR", "no probe")
    done = unfreeze.adapt(image_run.run.folder, moved, output_dir=tmp_path / "run", method="norm")
    dataset = open_source(load(image_run.run.folder), None)[0]
    rows = dataset.rows("val")
    probabilities, _ = done.model().probabilities(dataset.samples.select(rows))
    assert done.on_source[1] == float((probabilities.argmax(axis=1) == dataset.label[rows]).mean())


def test_a_target_that_cannot_be_scored_costs_the_scores_alone(image_run, moved, tmp_path, command):
    flat = tmp_path / "flat"
    flat.mkdir()
    for place, file in enumerate(sorted(moved.rglob("*.png"))):
        shutil.copy(file, flat / f"{place}.png")
    done = command(
        *("adapt", image_run.run.folder, "--target", flat, "--output-dir", tmp_path / "run"),
        *("--method", "align", "--report-target-accuracy"),
    )
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "run" / "adaptation.json").read_text())
    assert found["after_the_fact"] is None
    for text in (found["warning"], done.out, (tmp_path / "run" / "report.html").read_text()):
        assert "The target's own labels could not be scored" in text.replace("&#39;", "'")
    assert (tmp_path / "run" / "README.md").is_file()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_behind_a_url_is_asked_about_as_one_that_lies_here(text_run, store, kind):
    loaded = load(text_run.run.folder)
    rows = {
        "title": [f"A title of letter {row}" for row in range(6)],
        "letter": [f"urgent cash offer of {row}" for row in range(6)],
        "label": ["spam"] * 6,
        "day": [10, 9, 9, 100, 9, 10],
    }
    with store.open(f"/b/m.{kind}", "wb") as file:
        (pa.csv.write_csv if kind == "csv" else pq.write_table)(pa.table(rows), file)
    url = f"memory://b/m.{kind}"
    asked = request(text_run.run.folder, url, column="letter", order_column="day")
    assert open_labels(url, asked, loaded.classifier).samples.read(1) == "urgent cash offer of 1"
    assert opening.open_target(asked, loaded).order.tolist() == [1, 0, 0, 2, 0, 1]
    with pytest.raises(
        DataError, match=r"unclear \(it could be 'title', 'letter'.*\)\. Name it with --column\."
    ):
        open_labels(url, replace(asked, column=None), loaded.classifier)
    store.pipe_file("/b/words/1.txt", b"urgent cash")
    with pytest.raises(RequestError, match="needs a table as --target, and memory://b/words is none"):
        opening.open_target(request(text_run.run.folder, "memory://b/words", order_column="day"), loaded)


def test_columns_of_the_target_are_those_that_are_scored(text_run, make_mails, tmp_path):
    make_mails(tmp_path / "new.csv", per_class=25, seed=9, noise=0)
    with (tmp_path / "new.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "other.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "mail", "kind"])
        writer.writerows(
            [f"a subject that says nothing {n}", row["text"], row["label"]] for n, row in enumerate(rows)
        )
    done = unfreeze.adapt(
        text_run.run.folder,
        tmp_path / "other.csv",
        output_dir=tmp_path / "run",
        method="align",
        column="mail",
        label_column="kind",
        report_target_accuracy=True,
    )
    assert done.warning is None
    assert done.after_the_fact["source model"]["accuracy"] > 0.8


def test_rows_worth_labelling_become_data_that_train_accepts(image_run, moved, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "decide", lambda *_, **__: Verdict("needs labels", None, ("told",)))
    done = unfreeze.adapt(image_run.run.folder, moved, output_dir=tmp_path / "run", method="align")
    with done.asked.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert f"--target {moved} --method align --target-labels {done.asked}" in done.again
    assert done.again in (done.folder / "report.html").read_text().replace("\u00a0", " ")
    assert {row["label"] for row in rows} == {""}
    assert all((done.asked.parent / row["image"]).is_file() for row in rows)
    for row in rows:
        row["label"] = row["from"].split("/")[-2]
    with done.asked.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    from unfreeze.data.load import load_dataset

    dataset = load_dataset(str(done.asked))
    assert (len(dataset), dataset.modality, dataset.labels.names) == (len(rows), "image", ("green", "red"))
    monkeypatch.setattr(module, "decide", decide)
    labelled = unfreeze.adapt(
        image_run.run.folder, moved, output_dir=tmp_path / "two", method="align", target_labels=done.asked
    )
    assert labelled.candidates[0].answered is not None
    assert f"on the {len(rows)} labelled rows" in labelled.verdict.reasons[0]


def test_rows_that_can_be_read_and_have_no_label_are_counted(image_run, moved, labelled, tmp_path):
    target = tmp_path / "target"
    shutil.copytree(moved, target, ignore=shutil.ignore_patterns("[23]*.png"))
    for number in range(20):
        (target / f"{number}.png").write_bytes(b"no picture")
    done = unfreeze.adapt(
        image_run.run.folder, target, output_dir=tmp_path / "run", method="align", target_labels=labelled(6)
    )
    assert done.verdict.against.startswith("40 target rows are too few")


def test_texts_from_the_command_line(text_run, make_mails, tmp_path, command):
    make_mails(tmp_path / "new.csv", per_class=25, seed=9, noise=0)
    done = command(
        "adapt", text_run.run.folder, "--target", tmp_path / "new.csv", "--output-dir", tmp_path / "run"
    )
    assert done.status == 0, done.err
    assert done.out.count("How far the target is") == 1
    # Once in all: nothing of it is told while it works.
    assert (done.out + done.err).count("A linear model tells the domains apart") == 1
    assert "Reverse: balanced accuracy" in done.out
    assert (tmp_path / "run" / "report.html").is_file()
    found = json.loads((tmp_path / "run" / "adaptation.json").read_text())
    # No normalisation statistics in a transformer: its head's inputs alone are restated.
    assert {one["method"] for one in found["candidates"]} == {"norm", "align", "self-training"}


def test_what_may_be_secret_in_a_url_is_not_written(text_run, make_mails, store, tmp_path, monkeypatch):
    make_mails(tmp_path / "new.csv", per_class=25, seed=9, noise=0)
    for name in ("new", "few"):
        # In memory the query is a part of the name.
        store.pipe_file(f"/b/{name}.csv?sig=Xq7Zp", (tmp_path / "new.csv").read_bytes())
    monkeypatch.setattr(module, "decide", lambda *_, **__: Verdict("needs labels", None, ("told",)))
    asked = request(
        text_run.run.folder,
        "memory://b/new.csv?sig=Xq7Zp",
        output_dir=tmp_path / "run",
        method="align",
        target_labels="memory://b/few.csv?sig=Xq7Zp",
    )
    done = module.adapt(asked, command=f"unfreeze adapt --target '{asked.target[0]}'")
    assert done.target == ("memory://b/new.csv",)
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(b"memory://b/new.csv" in content for content in written)
    assert any(b"memory://b/few.csv" in content for content in written)
    assert not any(b"Xq7Zp" in content for content in written)


def test_json_is_one_object_and_nothing_else(image_run, moved, tmp_path, command):
    done = command(
        *("adapt", image_run.run.folder, "--target", moved, "--output-dir", tmp_path / "run"),
        *("--method", "align", "--json"),
    )
    assert done.status == 0, done.err
    assert json.loads(done.out)["run"] == str(tmp_path / "run")


def test_targets_in_their_order_are_steps(image_run, moved, tmp_path):
    done = unfreeze.adapt(
        image_run.run.folder, [moved / "green", moved / "red"], output_dir=tmp_path / "run", method="gradual"
    )
    assert [one.method for one in done.candidates] == ["gradual"]
    assert done.rows == 80


def test_statistics_are_estimated_on_the_newest_step(image_run, moved, tmp_path, monkeypatch):
    seen = []

    def watch(backbone, batches, *, device):
        seen.append(sum(len(batch.h) for batch in batches))
        restate(backbone, batches, device=device)

    monkeypatch.setattr("unfreeze.adapting.passes.restate", watch)
    few = tmp_path / "few"
    shutil.copytree(moved, few, ignore=shutil.ignore_patterns("[23]*.png"))
    unfreeze.adapt(image_run.run.folder, [moved, few], output_dir=tmp_path / "run", method="norm")
    # The source's own first, to see whether they are its own.
    assert len(seen) == 2
    assert seen[1] == len(list(few.rglob("*.png"))) == 40


def request(run, target, **said):
    return AdaptRequest(run=run, target=(str(target),), **said)


def test_a_column_orders_the_rows(image_run, text_run, tmp_path):
    table = tmp_path / "steps.csv"
    table.write_text("text,day\n" + "".join(f"some words {n},{d}\n" for n, d in enumerate((10, 9, 9, 100))))
    loaded = load(text_run.run.folder)
    target = opening.open_target(request(text_run.run.folder, table, order_column="day"), loaded)
    assert target.order.tolist() == [1, 0, 0, 2]
    with pytest.raises(RequestError, match="no column 'dya'"):
        opening.open_target(request(text_run.run.folder, table, order_column="dya"), loaded)
    table.write_text("text,day\n" + "".join(f"some words {n},{n / 7}\n" for n in range(50)))
    target = opening.open_target(request(text_run.run.folder, table, order_column="day"), loaded)
    assert np.bincount(target.order).tolist() == [5] * 10
    with pytest.raises(RequestError, match="needs a table"):
        opening.open_target(
            request(image_run.run.folder, image_run.data, order_column="day"), load(image_run.run.folder)
        )


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"method": "magic"}, "--method 'magic' is unknown"),
        ({"threshold": 0.8}, "--threshold is a setting of --method pseudo-label"),
        ({"method": "pseudo-label", "threshold": 2.0}, "is no confidence"),
        ({"device": "abacus"}, "--device 'abacus'"),
        ({"seed": -1}, "--seed -1 is out of range"),
        ({"method": "labels"}, "--method labels needs --target-labels"),
        ({"label_column": "kind"}, "--label-column names labels that nothing reads"),
    ],
)
def test_a_wrong_request_is_refused_in_a_sentence(image_run, moved, tmp_path, said, told):
    with pytest.raises(RequestError, match=told):
        unfreeze.adapt(image_run.run.folder, moved, output_dir=tmp_path / "run", **said)
    assert not (tmp_path / "run").exists()


def test_a_wrong_target_is_refused_in_a_sentence(image_run, text_run, mails, moved, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "run"
    paths = tmp_path / "paths.csv"
    paths.write_text("image,label\n" + "".join(f"red/{n:02}.png,red\n" for n in range(9)))
    for run, target, told in (
        (text_run, paths, r"reads texts, and .*paths.csv holds images \(column 'image'\)"),
        (image_run, mails, r"reads images, and .*mails.csv holds texts \(column 'text'\)"),
        (image_run, tmp_path / "empty", "no image inputs"),
        (image_run, tmp_path / "nowhere.png", "does not exist"),
        (text_run, moved / "red" / "00.png", "reads texts"),
        (image_run, "-", "reads no lines"),
    ):
        with pytest.raises((RequestError, DataError), match=told):
            unfreeze.adapt(run.run.folder, target, output_dir=out)
        assert not out.exists()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="can be read"):
        unfreeze.adapt(image_run.run.folder, broken, output_dir=out)
    with pytest.raises((RequestError, DataError), match=r"reads images, and .*mails.csv holds texts"):
        unfreeze.adapt(image_run.run.folder, moved, output_dir=out, target_labels=mails)
    with pytest.raises(RequestError, match="no finished run"):
        unfreeze.adapt(moved, moved, output_dir=out)


def test_a_source_that_moved_or_changed_is_not_at_hand(image_run, photos, tmp_path, monkeypatch):
    loaded = load(image_run.run.folder)
    found, told = open_source(loaded, None)
    assert len(found) == len(image_run.run.model().predict(sorted(photos.rglob("*.png"))))
    assert "at hand" in told
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    there, _ = open_source(loaded, str(copy))
    assert np.array_equal(there.part, found.part)
    gone = loaded.bundle.model_copy(
        update={"data": loaded.bundle.data.model_copy(update={"source": "nowhere"})}
    )
    missing, told = open_source(type(loaded)(loaded.classifier, gone, loaded.folder), None)
    assert missing is None
    assert "nowhere does not exist" in told
    (copy / "red" / "00.png").unlink()
    changed = loaded.bundle.model_copy(
        update={"data": loaded.bundle.data.model_copy(update={"source": str(copy)})}
    )
    missing, told = open_source(type(loaded)(loaded.classifier, changed, loaded.folder), None)
    assert missing is None
    assert "has changed" in told
    shutil.copytree(copy / "red", copy / "blue")
    with pytest.raises(RequestError, match="'blue' is new"):
        open_source(loaded, str(copy))


def test_without_the_source_the_model_is_kept(image_run, moved, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "open_source", lambda *_: (None, "gone"))
    done = unfreeze.adapt(image_run.run.folder, moved, output_dir=tmp_path / "run")
    assert done.verdict.kind != "adapted"
    assert {one.method for one in done.candidates} == {"norm", "self-training"}
    assert all("cannot be checked" in one.refused[0] for one in done.candidates)


def test_an_engine_that_is_too_far_from_pytorch_is_not_adapted_with(
    image_run, moved, tmp_path, monkeypatch, recorder
):
    loaded = load(image_run.run.folder)
    target = opening.open_target(request(image_run.run.folder, moved), loaded).dataset
    monkeypatch.setattr(choice, "available_executors", lambda device: ("openvino-fp32", "torch-fp32"))
    real = choice.build_executor
    # Measured, and never run: converting takes seconds.
    monkeypatch.setattr(
        choice, "build_executor", lambda name, *rest, **given: real("torch-fp32", *rest, **given)
    )
    for error in (1e-6, 0.03):
        found = ExecutorError(max_abs=1.0, relative_median=error, relative_max=error, rows=32)
        monkeypatch.setattr(choice, "measure_error", lambda *_, found=found: found)
        monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / str(error)))
        rows = np.arange(len(target))
        passes = Passes.of(loaded.classifier.backbone, target, rows, device="cpu", seed=0, progress=recorder)
    near, far = recorder.said
    assert near.startswith("Executor openvino-fp32: the fastest")
    assert far.startswith("Executor torch-fp32: OpenVINO's features are 3.0e-02")
    assert far.endswith("too far")
    assert passes.executor.name == "torch-fp32"


def test_statistics_are_those_of_the_batches_and_weights_stay():
    backbone = load_backbone("efficientnet-lite0", modality="image", image_size=32)
    assert has_statistics(backbone)
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    pixels = torch.randint(0, 255, (64, 32, 32, 3), dtype=torch.uint8)
    restate(backbone, [State(pixels[:32]), State(pixels[32:])], device="cpu")
    after = backbone.module.state_dict()
    for name, value in before.items():
        moved = not torch.equal(value, after[name])
        assert moved == (name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")), (
            name
        )
    assert not backbone.module.training
    state = backbone.run(State(pixels), 0, 1).h
    first = next(m for m in backbone.module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert first.momentum is not None
    # After the first normalisation the target's activations have a mean near the learnt one.
    assert torch.isfinite(state).all()
