"""Which engine is meant, who gets which cores, and what Ray leaves behind."""

import importlib.util
import os
import signal

import pytest

from unfreeze.cluster import Workers, check_engine, joined, share_out
from unfreeze.errors import RequestError


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("rey", "--engine 'rey' is unknown: choose local, ray or ray://HOST:PORT. Did you mean 'ray'?"),
        ("ray://", "--engine ray:// names no cluster: write it like ray://HOST:10001."),
        ("ray://head", "names no cluster"),
        ("ray://head:port", "names no cluster"),
    ],
)
def test_an_engine_that_is_none_is_refused_with_what_was_meant(engine, words):
    with pytest.raises(RequestError) as refused:
        check_engine(engine)
    assert words in str(refused.value)


@pytest.mark.parametrize(("engine", "missing"), [("ray", "ray"), ("ray://head:10001", "grpc")])
def test_without_the_package_the_extra_is_named(monkeypatch, engine, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found("json"))
    with pytest.raises(RequestError) as refused:
        check_engine(engine)
    assert str(refused.value).endswith("pip install 'unfreeze[ray]'")
    check_engine("local")


@pytest.mark.parametrize(
    ("cores", "wanted", "count", "each"),
    [
        ([2], None, 2, 1),
        ([1], None, 1, 1),
        ([8], None, 2, 4),
        ([64], None, 16, 4),
        ([2], 1, 1, 2),
        ([8], 8, 8, 1),
        # More than there are cores for, and what a machine cannot hold because its cores do not add up.
        ([4], 9, 4, 1),
        ([4, 6, 6], 4, 3, 4),
        ([4, 64], 2, 2, 4),
    ],
)
def test_workers_never_have_more_cores_together_than_a_machine_has(cores, wanted, count, each):
    assert share_out(cores, wanted) == Workers(count, each)
    assert sum(machine // each for machine in cores) >= count


def test_ray_is_started_with_room_for_its_workers_and_gone_afterwards(capfd):
    import ray

    before = signal.getsignal(signal.SIGTERM)
    with joined("ray", workers=5) as cluster:
        assert signal.getsignal(signal.SIGTERM) == before
        assert cluster.workers(5) == Workers(5, 1)
        assert ray.is_initialized()
    assert not ray.is_initialized()
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    assert signal.getsignal(signal.SIGTERM) == before
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


@pytest.mark.parametrize(
    ("where", "given", "mode"),
    [
        ("RAY_AUTH_TOKEN", {}, "token"),
        ("RAY_AUTH_TOKEN_PATH", {}, "token"),
        (".ray/auth_token", {}, "token"),
        ("RAY_AUTH_TOKEN", {"RAY_AUTH_MODE": "disabled"}, "disabled"),
        (None, {}, None),
    ],
)
def test_a_token_that_lies_here_goes_to_a_cluster_elsewhere(monkeypatch, tmp_path, where, given, mode):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        # Set first, so that what the program sets goes with the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if where == ".ray/auth_token":
        (tmp_path / ".ray").mkdir()
        (tmp_path / where).write_text("a token")
    elif where is not None:
        monkeypatch.setenv(where, "a token")
    with (
        pytest.raises(RequestError, match="RAY_AUTH_TOKEN must hold it"),
        joined("ray://127.0.0.1:1", workers=1),
    ):
        pass
    assert os.environ.get("RAY_AUTH_MODE") == mode


def test_a_cluster_that_does_not_answer_is_a_sentence(monkeypatch, tmp_path):
    # No token of this machine, which would change the environment of what comes next.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for engine in ("ray", "ray://127.0.0.1:1"):
        with pytest.raises(RequestError, match=r"no Ray answers \(.*refused"), joined(engine, workers=None):
            pass
