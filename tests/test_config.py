"""Settings: said on the command line, in a file, or not at all."""

import inspect
import os
from dataclasses import fields, replace
from datetime import date
from itertools import pairwise

import pytest
import yaml

from unfreeze.api import train as api_train
from unfreeze.config import (
    AUTO,
    CHOICES,
    FIXED_BY_CLASSIC,
    RANGES,
    READ_BY,
    STRATEGIES,
    Resolved,
    TrainRequest,
    read_config,
    seconds_of,
    write_config,
)
from unfreeze.errors import RequestError

FIELDS = {field.name for field in fields(TrainRequest)}


def test_python_and_the_command_line_take_every_setting():
    from unfreeze.cli.train import train as cli_train

    assert set(inspect.signature(api_train).parameters) - {"progress"} == FIELDS
    # How a training is started is no setting of it.
    assert set(inspect.signature(cli_train).parameters) - {"config", "json_output", "devices"} == FIELDS
    assert set(CHOICES) | set(RANGES) | set(READ_BY) <= FIELDS


def test_what_was_said_wins_over_the_file():
    request = TrainRequest(data="x", seed=3).filled_from({"seed": 7, "head": "mlp"}, source="f")
    assert (request.seed, request.head) == (3, "mlp")


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(RequestError, match=r"'bachsize'.*Did you mean 'batch_size'"):
        TrainRequest(data="x").filled_from({"bachsize": 7}, source="f")
    with pytest.raises(RequestError, match="'data'"):
        TrainRequest(data="x").filled_from({"data": "y"}, source="f")


def test_all_problems_come_at_once():
    request = TrainRequest(data="x", head="liner", seed=-1, val=1.5, batch_size=0)
    with pytest.raises(RequestError) as caught:
        request.check()
    text = str(caught.value)
    assert "Did you mean 'linear'" in text
    for name in ("--head", "--seed", "--val", "--batch-size"):
        assert name in text


def a_value_of(name):
    """A value within the range of a setting."""
    if name in CHOICES:
        return CHOICES[name][0]
    if name in RANGES:
        kind = str(next(field.type for field in fields(TrainRequest) if field.name == name))
        return (int if kind.startswith("int") else float)(RANGES[name][1])
    return {"targets": "qkv", "interpolate": True}[name]


@pytest.mark.parametrize("name", READ_BY)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_setting_that_the_strategy_does_not_read_is_refused(name, strategy):
    request = TrainRequest(data="x", strategy=strategy, **{name: a_value_of(name)})
    if strategy in READ_BY[name]:
        request.check()
        return
    with pytest.raises(RequestError) as caught:
        request.check()
    text = str(caught.value)
    assert text.startswith("--" + name.replace("_", "-") + " is a setting of ")
    assert f"the strategy is {strategy}: leave it out" in text
    assert f"--strategy {READ_BY[name][0]}." in text


def test_a_refused_setting_names_the_strategy_that_reads_it():
    with pytest.raises(RequestError) as caught:
        TrainRequest(data="x", strategy="full", rank=8).check()
    wanted = "--rank is a setting of lora, and the strategy is full: leave it out or choose --strategy lora."
    assert str(caught.value) == wanted
    with pytest.raises(
        RequestError, match="--epochs is a setting of every strategy but feature-extraction, and"
    ):
        TrainRequest(data="x", strategy="feature-extraction", epochs=3).check()
    with pytest.raises(RequestError) as caught:
        TrainRequest(data="x", strategy="ful", rank=8).check()
    assert "--rank" not in str(caught.value)


@pytest.mark.parametrize("name", READ_BY)
@pytest.mark.parametrize("strategy", [None, AUTO])
def test_what_is_left_to_auto_is_refused_and_what_all_candidates_read_is_taken(name, strategy):
    request = TrainRequest(data="x", strategy=strategy, **{name: a_value_of(name)})
    if len(READ_BY[name]) > 1:
        request.check()
        return
    with pytest.raises(
        RequestError, match="--strategy auto chooses by itself: leave it out or say --strategy"
    ):
        request.check()


def test_a_time_limit_is_for_auto_alone():
    for time in ("90s", "10m", "2h", "45"):
        TrainRequest(data="x", time_limit=time).check()
    assert [seconds_of(time) for time in ("90s", "10m", "0.5h", "45")] == [90, 600, 1800, 45]
    for request in (TrainRequest(data="x", strategy="full"), TrainRequest(data="x", recipe="classic")):
        with pytest.raises(RequestError, match="--time-limit is a setting of --strategy auto"):
            replace(request, time_limit="5m").check()
    for time in ("soon", "0s", "-3m", "10 years"):
        with pytest.raises(RequestError, match="write it like 90s, 10m or 2h"):
            TrainRequest(data="x", time_limit=time).check()


@pytest.mark.parametrize("name", FIXED_BY_CLASSIC)
@pytest.mark.parametrize("strategy", [None, "lora", "full"])
def test_nothing_that_the_classic_recipe_fixes_can_be_set_beside_it(name, strategy):
    request = TrainRequest(data="x", recipe="classic", strategy=strategy, **{name: a_value_of(name)})
    with pytest.raises(RequestError) as caught:
        request.check()
    flag = "--" + name.replace("_", "-")
    assert (
        str(caught.value)
        == f"{flag} cannot be set beside --recipe classic, which fixes it: leave one of them out."
    )


def test_the_classic_recipe_takes_what_does_not_change_its_schedule():
    given = {
        "seed": 3,
        "device": "cpu",
        "precision": "fp32",
        "store_budget": "1GB",
        "image_size": 64,
    }
    for strategy in STRATEGIES:
        TrainRequest(data="x", recipe="classic", strategy=strategy, **given).check()


@pytest.mark.parametrize(
    ("strategy", "name", "value"),
    [
        ("lora", "rank", 0),
        ("lora", "rank", 1025),
        ("lora", "alpha", 0.0),
        ("lora", "lora_dropout", 0.95),
        ("lora", "lora_blocks", 0),
        ("lora", "targets", " , "),
        ("adapters", "reduction", 0),
        ("adapters", "reduction", 1025),
        ("full", "label_smoothing", 0.6),
        ("full", "mixup", 11.0),
        ("full", "token_dropout", 0.91),
        ("full", "ema", 1.0),
        ("full", "ema", float("nan")),
        ("full", "patience", 0),
        ("full", "schedule", "stepwise"),
        ("full", "recipe", "clasic"),
    ],
)
def test_a_value_out_of_its_range_is_refused(strategy, name, value):
    with pytest.raises(RequestError, match="^--" + name.replace("_", "-")) as caught:
        TrainRequest(data="x", strategy=strategy, **{name: value}).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -0.1, float("nan"), float("inf"), 2])
def test_a_share_lies_between_zero_and_one(share):
    with pytest.raises(RequestError, match="--val"):
        TrainRequest(data="x", val=share).check()
    TrainRequest(data="x", val=0.2, test=0.3).check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "seven"),
        ("seed", 1.5),
        ("seed", True),
        ("batch_size", [32]),
        ("head", ["linear"]),
        ("head", 3),
        ("backbone", 3),
        ("label_column", 3),
        ("precision_target", "high"),
        ("output_dir", 3),
    ],
)
def test_a_value_of_the_wrong_type_is_a_sentence(name, value):
    request = TrainRequest(data="x").filled_from({name: value}, source="f")
    with pytest.raises(RequestError, match="--" + name.replace("_", "-")):
        request.check()


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words", "1: 2"])
def test_a_file_without_pairs_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(RequestError, match="name: value"):
        read_config(tmp_path / "c.yaml")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        read_config(tmp_path / "c.yaml")
    with pytest.raises(RequestError, match=r"cannot be read \(not a regular file\)"):
        read_config(tmp_path)
    (tmp_path / "c.yaml").write_text("a: [")
    with pytest.raises(RequestError, match="not readable as YAML"):
        read_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(RequestError, match="not readable as YAML"):
        read_config(tmp_path / "c.yaml")


@pytest.mark.timeout(30)
def test_a_pipe_a_device_or_a_file_of_gigabytes_is_no_configuration(tmp_path, command):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "huge.yaml").touch()
    os.truncate(tmp_path / "huge.yaml", 2**40)
    for path, why in (
        (tmp_path / "pipe.yaml", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path / "huge.yaml", "larger than 1 MiB"),
    ):
        answer = command("train", tmp_path, "--config", path, "--output-dir", tmp_path / "run")
        assert (answer.status, answer.out) == (2, "")
        assert answer.err == f"Error: --config {path} cannot be read ({why}): give a YAML file of settings.\n"


@pytest.mark.parametrize(
    "value",
    [
        "2024-13-45",
        "!!timestamp x",
        "!!int ''",
        "!!bool x",
        "!!float x",
        pytest.param("9" * 5_000, id="nines"),
    ],
)
def test_a_value_that_is_not_what_it_looks_like_is_refused(tmp_path, value):
    (tmp_path / "c.yaml").write_text(f"seed: {value}")
    with pytest.raises(RequestError, match="not what it looks like"):
        read_config(tmp_path / "c.yaml")


def test_a_value_that_stands_for_a_billion_is_named_in_a_line(tmp_path):
    laughs = ["&a [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"&{name} [{', '.join(['*' + before] * 9)}]" for before, name in pairwise("abcdefghij")]
    (tmp_path / "c.yaml").write_text("epochs:\n" + "".join(f"- {line}\n" for line in laughs))
    request = TrainRequest(data="x").filled_from(read_config(tmp_path / "c.yaml"), source="f")
    with pytest.raises(RequestError, match=r"--epochs .* is of the wrong kind") as caught:
        request.check()
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("name", ["val", "test"])
@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, date(2024, 1, 1)])
def test_a_part_that_is_neither_a_share_nor_data_is_refused(name, value):
    with pytest.raises(
        RequestError, match=rf"--{name} .* is of the wrong kind: give a number between 0 and 1"
    ):
        TrainRequest(data="x", **{name: value}).check()


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("test", 10**400, "no share"),
        ("seed", int("f" * 5_000, 16), "with thousands of digits is out of range"),
        ("store_budget", "9" * 400 + "GB", "no size"),
        ("time_limit", "9" * 400 + "h", "no time"),
    ],
    ids=["share", "seed", "size", "time"],
)
def test_numbers_beyond_floats_are_refused(name, value, match):
    with pytest.raises(RequestError, match=match):
        TrainRequest(data="x", **{name: value}).check()


def test_numbers_with_an_exponent_are_numbers_and_words_stay_words(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lr: 1e-4\nalpha: 5E+1\nlabel_column: '1e5'\nstore: off\nresume: on\n")
    values = read_config(path)
    assert values == {
        "lr": 0.0001,
        "alpha": 50.0,
        "label_column": "1e5",
        "store": "off",
        "resume": True,
    }
    path.write_text(write_config(tuple(Resolved(*pair, "user", "said") for pair in values.items())))
    assert read_config(path) == values


def test_written_settings_come_back_as_what_their_user_said(tmp_path):
    resolved = (
        Resolved("head", "mlp", "user", "asked for"),
        Resolved("seed", 0, "default", "fixed"),
        Resolved("executor", "torch-fp32", "data", "the fastest"),
    )
    path = tmp_path / "config.yaml"
    path.write_text(write_config(resolved))
    assert list(yaml.safe_load(path.read_text())) == ["head", "seed", "executor"]
    assert read_config(path) == {"head": "mlp"}


def test_the_config_of_a_run_repeats_its_settings_but_not_its_folder(image_run):
    path = image_run.run.folder / "config.yaml"
    values = read_config(path)
    assert values == {"backbone": "efficientnet-lite0", "image_size": 64, "strategy": "feature-extraction"}
    request = TrainRequest(data="x").filled_from(values, source=str(path))
    request.check()
    assert request.output_dir is None


def test_the_place_of_a_run_stays_as_a_file_says_it_since_a_path_would_break_a_url():
    request = TrainRequest(data="x").filled_from({"output_dir": "s3://bucket/runs/a"}, source="f")
    request.check()
    assert request.output_dir == "s3://bucket/runs/a"
