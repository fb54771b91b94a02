"""The commands: exit statuses, sentences, and what stands on standard output."""

import csv
import io
import json
import os
import re
import shutil
import signal
import sys
import warnings

import pytest
from PIL import Image

from unfreeze.errors import RequestError

SCORES = {
    "n", "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1", "log_loss", "ece",
    "per_class", "confusion", "labels",
}  # fmt: skip


def refused(answer, *words):
    """Exit status 2, nothing on standard output, and one or two sentences (a question beside them) with the words."""
    assert answer.status == 2, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.startswith("Error: ")
    assert answer.err.count("Error: ") == 1
    statements = re.sub(r"Did you mean [^?]*\?", "", answer.err)
    assert len(re.findall(r"[.!](?=\s|$)", statements)) in (1, 2), answer.err
    for word in words:
        assert word in answer.err, answer.err


def one_object(answer):
    assert answer.status == 0, answer.err
    assert answer.out.count("\n") == 1
    values = json.loads(answer.out)
    assert isinstance(values, dict)
    return values


@pytest.fixture
def train(command, tmp_path):
    """Runs ``unfreeze train`` into a folder that must not exist when it was refused."""

    def call(*arguments):
        answer = command("train", *arguments, "--output-dir", tmp_path / "runs" / "new")
        if answer.status:
            assert not (tmp_path / "runs" / "new").exists()
        return answer

    return call


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


# -- what is refused


def test_a_missing_folder(train, tmp_path, photos):
    refused(train(tmp_path / "photso"), "photso", "does not exist")
    refused(train(photos.parent / "photo"), "Did you mean 'photos'?")


def test_an_empty_folder(train, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(train(tmp_path / "empty"), "empty")


def test_one_class(train, tmp_path, photos):
    shutil.copytree(photos / "red", tmp_path / "one" / "red")
    refused(train(tmp_path / "one"), "one class only", "'red'", "needs two")


def test_one_image_in_a_class(train, tmp_path, photos):
    shutil.copytree(photos / "red", tmp_path / "two" / "red")
    (tmp_path / "two" / "green").mkdir()
    shutil.copy(photos / "green" / "00.png", tmp_path / "two" / "green")
    refused(train(tmp_path / "two"), "'green'")


def test_an_unknown_column(train, mails):
    refused(train(mails, "--label-column", "lable"), "lable", "Did you mean 'label'?")


def test_a_label_column_full_of_unique_values(train, tmp_path):
    rows = [["text", "id"], *([f"a text of some length, {number}", f"id-{number}"] for number in range(30))]
    refused(train(write_csv(tmp_path / "t.csv", rows), "--label-column", "id"), "id")


@pytest.mark.parametrize("data", ["photos", "mails"])
def test_an_unknown_backbone(train, request, data):
    answer = train(request.getfixturevalue(data), "--backbone", "efficientnet-lit0")
    refused(answer, "efficientnet-lit0")
    if data == "photos":
        assert "Did you mean 'efficientnet-lite0'" in answer.err or "efficientnet_lite0" in answer.err


def test_a_backbone_of_the_other_modality(train, photos):
    refused(train(photos, "--backbone", "all-minilm-l6-v2"), "reads texts")


@pytest.mark.parametrize("share", ["1.5", "0", "1", "nan"])
def test_a_share_that_is_none(train, photos, share):
    refused(train(photos, "--val", share), "--val", "between 0 and 1")


def test_shares_that_leave_nothing(train, photos):
    refused(train(photos, "--val", "0.6", "--test", "0.5"), "nothing to train on")


def test_an_output_folder_that_cannot_be_written(command, photos, tmp_path):
    (tmp_path / "file").touch()
    refused(command("train", photos, "--output-dir", tmp_path / "file" / "run"), "cannot be written")
    refused(command("train", photos, "--output-dir", tmp_path / "file"), "exists already")


def test_an_existing_run_folder_is_not_touched(command, photos, image_run):
    folder = image_run.run.folder
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    refused(command("train", photos, "--output-dir", folder), "exists already", "--output-dir")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["predict", "evaluate"])
def test_a_tampered_run_folder(command, image_run, tmp_path, name):
    shutil.copytree(image_run.run.folder, tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    refused(command(name, tmp_path / "run", image_run.data), "model.safetensors", "was changed")


def test_a_text_run_with_images(command, text_run, photos):
    refused(command("predict", text_run.run.folder, photos / "red" / "00.png"), "reads texts")
    refused(command("predict", text_run.run.folder, photos), "no text inputs")
    refused(command("evaluate", text_run.run.folder, photos))


def test_an_image_run_with_texts(command, image_run, tmp_path, mails):
    (tmp_path / "mail.txt").write_text("a mail")
    refused(command("predict", image_run.run.folder, tmp_path / "mail.txt"), "reads images")
    refused(command("predict", image_run.run.folder, mails))
    refused(command("evaluate", image_run.run.folder, mails))


def test_a_configuration_with_an_unknown_setting(command, photos, tmp_path):
    (tmp_path / "c.yaml").write_text("bachsize: 3\n")
    refused(
        command("train", photos, "--config", tmp_path / "c.yaml"), "bachsize", "Did you mean 'batch_size'?"
    )


def test_a_setting_that_the_strategy_does_not_read(train, photos):
    refused(
        train(photos, "--strategy", "full", "--rank", "8"), "--rank is a setting of lora", "--strategy lora"
    )
    refused(
        train(photos, "--strategy", "feature-extraction", "--epochs", "3"),
        "--epochs is a setting of every strategy but feature-extraction",
    )


def test_a_setting_that_the_classic_recipe_fixes(train, photos):
    refused(train(photos, "--recipe", "classic", "--lr", "1e-3"), "--lr", "--recipe classic")
    refused(train(photos, "--recipe", "classic", "--strategy", "full", "--no-interpolate"), "--interpolate")


def test_the_device_of_a_configuration_counts_where_processes_are_gathered(
    command, photos, tmp_path, monkeypatch
):
    (tmp_path / "config.yaml").write_text("device: cpu\n")
    seen = []

    def gathered(device):
        seen.append(device)
        raise RequestError("The toy stops here.")

    monkeypatch.setattr("unfreeze.engine.launching.check_devices", lambda count, device: seen.append(device))
    monkeypatch.setattr("unfreeze.engine.launching.gathered", gathered)
    settings = ("train", photos, "--devices", 1, "--config", tmp_path / "config.yaml")
    refused(command(*settings), "The toy stops here.")
    refused(command(*settings, "--device", "auto"), "The toy stops here.")
    assert seen == ["cpu", "cpu", "auto", "auto"]


@pytest.mark.parametrize(
    ("name", "called", "settings"),
    [
        ("check", "unfreeze.auditing.audit_data", {"stratify_column": "site"}),
        ("plan", "unfreeze.planned.look_ahead", {"stratify_column": "site"}),
        (
            "compare",
            "unfreeze.comparing.run.compare",
            {"time_limit": "5m", "head": "mlp", "recipe": "classic", "stratify_column": "site"},
        ),
    ],
)
def test_settings_of_train_that_other_commands_take_reach_what_they_ask_for(
    command, mails, monkeypatch, name, called, settings
):
    asked = []

    def stop(request, **more):
        asked.append(getattr(request, "base", request))
        raise RequestError("The toy stops here.")

    monkeypatch.setattr(called, stop)
    options = [word for key, value in settings.items() for word in ("--" + key.replace("_", "-"), value)]
    refused(command(name, mails, *options), "The toy stops here.")
    assert {key: value for key, value in asked[0].given().items() if key != "seed"} == settings


def test_an_unknown_flag_is_a_usage_error(command, photos):
    answer = command("train", photos, "--bakbone", "x")
    assert answer.status == 2
    assert answer.out == ""
    assert "--backbone" in answer.err


def test_predictions_with_nowhere_to_go(command, image_run, photos, tmp_path):
    for output, word in (("rows.xlsx", "unknown ending"), ("nowhere/rows.csv", "does not exist")):
        refused(command("predict", image_run.run.folder, photos, "--output", tmp_path / output), word)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_standard_input_that_is_no_text(command, text_run, monkeypatch, errors):
    # Where no language is set, as in a plain container, Python lets any bytes through.
    given = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", given)
    refused(command("predict", text_run.run.folder, "-"), "standard input", "UTF-8")


def test_predictions_are_not_written_over_what_they_are_made_from(command, text_run, tmp_path):
    table = tmp_path / "mails.csv"
    shutil.copy(text_run.data, table)
    before = table.read_bytes()
    for given in (table, tmp_path / "*.csv", tmp_path):
        refused(command("predict", text_run.run.folder, given, "--output", table), "among what is read")
    assert table.read_bytes() == before


def test_flags_for_texts_are_refused_where_images_are_checked(command, photos):
    for given in (("--max-length", "10"), ("--backbone", "nosuch")):
        refused(command("check", photos, *given), given[0], "images")


def test_how_texts_are_cut_is_no_matter_of_images(train, photos):
    refused(train(photos, "--truncation", "head+tail"), "--truncation is for texts", "images")
    refused(train(photos, "--truncation", "tail"), "--truncation 'tail' is unknown: choose head, head+tail")


def test_a_length_that_the_backbone_does_not_read_is_not_taken_for_a_missing_backbone(command, mails):
    refused(command("check", mails, "--max-length", "100000"), "512")


def test_no_data_at_all_is_not_the_current_folder(command):
    refused(command("check", ""), "DATA is empty")
    refused(command("train", " "), "DATA is empty")


# -- what is printed


def test_training_prints_one_json_object_with_the_designed_keys(
    command, text_run, tmp_path, monkeypatch, plain_torch
):
    monkeypatch.setenv("UNFREEZE_CACHE", str(text_run.cache))
    folder = tmp_path / "run"
    answer = command(
        "train",
        text_run.data,
        "--output-dir",
        folder,
        "--backbone",
        "all-minilm-l6-v2",
        "--max-length",
        16,
        "--strategy",
        "feature-extraction",
        "--json",
    )
    values = one_object(answer)
    assert set(values) == {
        "run",
        "strategy",
        "backbone",
        "seconds",
        "validation",
        "test",
        "baselines",
        "warnings",
    }
    assert values["run"] == str(folder)
    assert values["strategy"] == "feature-extraction"
    assert values["test"].keys() >= SCORES
    metrics = json.loads((folder / "metrics.json").read_text())
    for part in ("validation", "test"):
        assert values[part] == {name: value for name, value in metrics[part].items() if name != "how"}
    assert answer.err == ""


def test_evaluating_prints_the_flat_schema(command, image_run):
    values = one_object(command("evaluate", image_run.run.folder, image_run.data, "--json"))
    assert values.keys() >= SCORES | {"run", "data", "unreadable"}
    assert values["n"] == 28
    plain = command("evaluate", image_run.run.folder, image_run.data)
    assert plain.status == 0
    assert f"{values['accuracy']:.1%}" in plain.out


def test_checking_prints_one_json_object_and_trains_nothing(command, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = one_object(command("check", photos, "--json"))
    assert "green" in json.dumps(values)
    plain = command("check", photos)
    assert plain.status == 0
    assert "green" in plain.out
    assert not (tmp_path / "runs").exists()


def test_checking_data_of_which_no_row_can_be_read_lists_them_and_ends_as_training_on_them_does(
    command, tmp_path, plain_torch
):
    data = tmp_path / "photos"
    for name in ("green", "red"):
        (data / name).mkdir(parents=True)
        for number in range(4):
            (data / name / f"{number}.png").write_bytes(b"no picture")
    answer = command("check", data, "--json")
    listed = json.loads(answer.out)["quarantined"]
    assert [entry["name"] for entry in listed] == [f"{n}/{i}.png" for n in ("green", "red") for i in range(4)]
    plain = command("check", data)
    assert "Unreadable: 8" in plain.out
    trained = command(
        "train", data, "--output-dir", tmp_path / "run", "--strategy", "feature-extraction", "--json"
    )
    refused(trained, "No readable row")
    assert (answer.status, plain.status) == (trained.status, trained.status)
    for one in (answer, plain):
        error = one.err[one.err.index("Error: ") :]
        assert "None of the 8 rows of" in error
        assert "green/0.png (its content is not an image in a known format)" in error
    # One row that can be read is a data set with something wrong in it.
    Image.new("RGB", (8, 8)).save(data / "red" / "0.png")
    assert command("check", data, "--json").status == 0


def test_listing_backbones_prints_one_json_object(command):
    values = one_object(command("backbones", "lite0", "--json"))
    assert any("lite0" in entry["name"] for entry in values["backbones"])
    assert "lite0" in command("backbones", "lite0").out


def test_predicting_prints_rows_in_order_with_an_error_among_them(command, image_run, photos, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((photos / "red" / "00.png").read_bytes()[:200])
    inputs = [photos / "red" / "01.png", broken, photos / "green" / "02.png"]
    answer = command("predict", image_run.run.folder, *inputs)
    assert answer.status == 0
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert list(rows[0]) == ["input", "label", "probability", "abstain", "error"]
    assert [row["input"] for row in rows] == [str(path) for path in inputs]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    values = one_object(command("predict", image_run.run.folder, *inputs, "--json", "--top-k", 2))
    assert [row["label"] for row in values["predictions"]] == [row["label"] or None for row in rows]
    assert values["predictions"][0].keys() >= {"top1_label", "top2_probability"}


def test_what_predicting_leaves_out_is_told_beside_the_rows(command, image_run, photos, tmp_path):
    shutil.copy(photos / "red" / "00.png", tmp_path)
    (tmp_path / "IMG.heic").write_bytes(b"x")
    answer = command("predict", image_run.run.folder, tmp_path)
    assert len(answer.out.splitlines()) == 2
    assert "1 file is left out, of formats that are not read: 1 .heic." in " ".join(answer.err.split())


def test_the_output_file_holds_what_python_answers(command, image_run, tmp_path):
    import unfreeze

    output = tmp_path / "rows.jsonl"
    answer = command("predict", image_run.run.folder, image_run.data, "--output", output)
    assert answer.status == 0
    assert answer.out == ""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    wanted = unfreeze.load(image_run.run.folder).predict([row["input"] for row in rows])
    assert len(rows) == 28
    assert [row["label"] for row in rows] == [answer.label for answer in wanted]
    assert [row["probability"] for row in rows] == pytest.approx([a.probability for a in wanted], abs=1e-6)


def test_lines_of_standard_input_are_texts(command, text_run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("prize winner claim cash\nagenda minutes report\n"))
    values = one_object(command("predict", text_run.run.folder, "-", "--json"))
    assert [row["label"] for row in values["predictions"]] == ["spam", "ham"]


def test_texts_that_are_cut_are_told_beside_the_rows(command, text_run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"prize winner\n{'prize ' * 40}\n"))
    answer = command("predict", text_run.run.folder, "-", "--json")
    one_object(answer)
    told = "1 of 2 texts (50.0%) are longer than the 16 tokens that are read of each, and were cut."
    assert told in " ".join(answer.err.split())


def test_the_version_is_printed_alone(command):
    answer = command("--version")
    assert answer.status == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", answer.out)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_command_tidily_and_mean_afterwards_what_they_meant_before(
    number, status, command, photos, monkeypatch
):
    before = signal.getsignal(signal.SIGTERM)
    # A shell starts what runs in the background with SIGINT ignored.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)

    def read(request):
        os.kill(os.getpid(), number)

    monkeypatch.setattr("unfreeze.auditing.read_data", read)
    try:
        answer = command("check", photos)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert (answer.status, answer.out, answer.err) == (status, "", "Interrupted.\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_pillow_says_of_a_damaged_picture_does_not_stand_between_the_lines(photos, tmp_path, command):
    """As a person sees it: a test would make an error of the warning."""
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    picture = Image.open(data / "red" / "00.png")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\xff\xff\0\0\xff\0\0\0\0\0\0\0"
    picture.save(data / "red" / "00.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert command("check", data, "--json").status == 0
    assert not [entry for entry in caught if "PIL" in entry.filename]


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "TEXT", "mail.txt"),
        ("predict", "RUN", "mail.txt", "--output", "TEXT.csv"),
        ("evaluate", "TEXT", "mail.txt"),
        ("train", "PHOTOS", "--output-dir", "TEXT"),
        ("export", "RUN", "--output", "TEXT"),
        ("serve", "TEXT"),
    ],
)
def test_a_text_in_the_place_of_a_file_is_a_sentence(
    text_run, photos, command, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mail.txt").write_text("meeting agenda")
    places = {"RUN": text_run.run.folder, "PHOTOS": photos}
    long = "free cash now " * 30
    done = command(*(str(places.get(one, one)).replace("TEXT", long) for one in arguments))
    assert done.status == 2
    assert "Error: " in done.err
    assert "free cash now free" in done.err
    assert "Traceback" not in done.err


def test_the_demo_overwrites_no_file_of_its_user(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "solar_cells.csv").write_text("image,label\nmine.png,good\n")
    done = command("demo", "--output-dir", "demo")
    assert (done.status, done.out) == (2, "")
    assert "solar_cells.csv is not the demo's" in done.err
    assert (tmp_path / "solar_cells.csv").read_text() == "image,label\nmine.png,good\n"
    done = command("demo", "--output-dir", "solar_cells.csv/demo")
    assert (done.status, "solar_cells.csv is a file. Name another folder." in done.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["solar_cells.csv"]
