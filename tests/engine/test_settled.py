"""What measuring has decided is remembered by training and machine; a file that says anything else decides nothing."""

import pytest
import torch

from unfreeze.engine.settled import Settled, settled_in

AMONG = ("fp32", "bf16")
CPU = torch.device("cpu")


def test_what_is_kept_is_found_by_another_of_the_same_training_alone(tmp_path):
    identity = {"--seed": "0", "--lr": "0.1"}
    first = settled_in(tmp_path / "settled", identity, CPU)
    assert first.find("precision", AMONG) is None
    first.keep("precision", "bf16")
    first.keep("store", "pays")
    again = settled_in(tmp_path / "settled", identity, CPU)
    assert again.find("precision", AMONG) == "bf16"
    assert again.find("store", ("pays", "does not pay")) == "pays"
    for other in (identity | {"--lr": "0.2"}, identity | {"--seed": "1"}):
        assert settled_in(tmp_path / "settled", other, CPU).find("precision", AMONG) is None


def test_what_one_gpu_has_decided_is_not_taken_for_another(tmp_path, monkeypatch):
    def on(name):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        return settled_in(tmp_path / "settled", {"--seed": "0"}, torch.device("cuda"))

    settled_in(tmp_path / "settled", {"--seed": "0"}, CPU).keep("precision", "fp32")
    assert on("a").find("precision", AMONG) is None
    on("a").keep("precision", "bf16")
    assert on("a").find("precision", AMONG) == "bf16"
    assert on("b").find("precision", AMONG) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"precision": 3}', '{"precision": "fp7"}', "\x00" * 9])
def test_a_damaged_file_decides_nothing_and_is_written_anew(tmp_path, content):
    path = tmp_path / "one.json"
    path.write_text(content)
    assert Settled(path).find("precision", AMONG) is None
    Settled(path).keep("precision", "fp32")
    assert Settled(path).find("precision", AMONG) == "fp32"


def test_without_a_place_and_in_one_that_cannot_be_written_nothing_is_remembered(tmp_path):
    (tmp_path / "file").write_text("")
    for settled in (Settled(), Settled(tmp_path / "file" / "one.json")):
        settled.keep("precision", "bf16")
        assert settled.find("precision", AMONG) is None
