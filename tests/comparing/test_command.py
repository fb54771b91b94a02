"""``unfreeze compare`` and ``unfreeze.compare``, once with real trainings."""

import inspect
import json

import pytest

import unfreeze


def test_a_real_comparison_by_python_and_by_command(
    command, photos, tmp_path, plain_torch, opened_once, image_run, monkeypatch, recorder
):
    # The features of these rows are stored there already.
    monkeypatch.setenv("UNFREEZE_CACHE", str(image_run.cache))
    said = {"backbone": "efficientnet-lite0", "image_size": 64, "epochs": 1}
    folder = tmp_path / "out"
    comparison = unfreeze.compare(
        str(photos), strategies=["partial:lr=1e-5"], seeds=1, output_dir=folder, progress=recorder, **said
    )
    floor, partial = comparison.results
    assert (floor.strategy, partial.strategy) == ("feature-extraction", "partial:lr=1e-5")
    assert floor.test_rows == partial.test_rows == 4
    assert floor.accuracy.value >= 0.5
    assert floor.trained < 20_000 < partial.trained < partial.parameters
    assert partial.seconds > floor.seconds
    assert partial.to_floor.low <= partial.to_floor.value <= partial.to_floor.high
    assert unfreeze.load(folder / "cells" / "partial_lr=1e-5-seed0").labels == ("green", "red")

    again = command(
        "compare", photos, "--strategies", "partial:lr=1e-5", "--seeds", 1, "--output-dir", folder, "--resume",
        "--backbone", "efficientnet-lite0", "--image-size", 64, "--epochs", 1, "--json",
    )  # fmt: skip
    assert again.status == 0, again.err
    assert again.err == ""
    values = json.loads(again.out)
    assert again.out.count("\n") == 1
    assert values["verdict"] == list(comparison.sentences)
    assert [result["seconds"] for result in values["results"]] == [floor.seconds, partial.seconds]


def test_the_terminal_gets_tables_on_standard_output_and_progress_beside(command, photos, tmp_path, trainer):
    answer = command(
        "compare", photos, "--strategies", "partial", "--seeds", 1, "--output-dir", tmp_path / "out",
        "--backbone", "efficientnet-lite0", "--image-size", 64,
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert "What it takes" in answer.out
    assert "Nothing beats the floor" in answer.out
    assert "2 trainings: 2 strategies, 1 seed." in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategies", "ful"], "Did you mean 'full'"),
        (["--strategies", "lora:rank=x"], "a whole number"),
        (["--seeds", "0"], "--seeds 0"),
        (["--train-size", "ten"], "no list of whole numbers"),
        (["--train-size", "9999"], "--train-size 9,999 is more than"),
        (["--backbones", "a", "--backbone", "b"], "both given"),
        (["--resume"], "--resume needs --output-dir"),
        (["--image-size", "64", "--strategies", "partial", "--epochs", "0"], "--epochs 0 is out of range"),
        (["--label-column", "lable"], "--label-column"),
    ],
)
def test_bad_input_gets_a_sentence_and_status_two(command, photos, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    answer = command("compare", photos, *arguments)
    assert answer.status == 2
    assert answer.out == ""
    assert answer.err.startswith("Error: ")
    assert words in answer.err
    assert not (tmp_path / "runs").exists()


def test_a_configuration_may_hold_any_other_setting_but_not_what_compare_decides(command, photos, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("strategy: full\n")
    answer = command("compare", photos, "--config", config)
    assert answer.status == 2
    assert "--strategy is decided for each training by --strategies" in answer.err
    config.write_text("lora_blcks: 2\n")
    assert "Did you mean 'lora_blocks'" in command("compare", photos, "--config", config).err


def test_train_takes_a_size_and_refuses_one_that_cannot_be(command, mails, tmp_path):
    answer = command("train", mails, "--train-size", 9_999, "--output-dir", tmp_path / "run")
    assert answer.status == 2
    assert "--train-size 9,999 is more than the" in answer.err
    assert not (tmp_path / "run").exists()


def test_python_and_the_command_line_take_the_same(command):
    from unfreeze.cli.compare import compare as cli_compare

    own = set(inspect.signature(unfreeze.compare).parameters) - {"settings", "progress"}
    assert own <= set(inspect.signature(cli_compare).parameters)
