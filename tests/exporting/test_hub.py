"""An exported folder is uploaded only after the gate, with its card; a failure is a sentence."""

import json

import huggingface_hub
import pytest

from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.exporting.hub import check_hub, push

pytestmark = pytest.mark.usefixtures("plain_torch")


class Hub:
    """Keeps what would have been sent."""

    calls = ()
    failure = None

    def create_repo(self, repository, **settings):
        Hub.calls += (("create", repository, settings),)
        return f"address of {repository}"

    def upload_folder(self, *, repo_id, folder_path, **settings):
        if Hub.failure is not None:
            raise Hub.failure
        Hub.calls += (("upload", repo_id, sorted(path.name for path in folder_path.iterdir())),)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(Hub, "calls", ())
    monkeypatch.setattr(Hub, "failure", None)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    return Hub


def test_the_folder_is_uploaded_with_its_card(hub, image_run, tmp_path, command):
    out = ("--format", "torchscript", "--output", tmp_path / "out")
    done = command("export", image_run.run.folder, *out, "--push-to-hub", "me/photos", "--private", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["address"] == "address of me/photos"
    (created, uploaded) = hub.calls
    assert created == ("create", "me/photos", {"private": True, "repo_type": "model", "exist_ok": True})
    assert uploaded == ("upload", "me/photos", ["README.md", "export.json", "model.pt"])
    assert "a token" not in (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path.parent) not in (tmp_path / "out" / "README.md").read_text()


def test_a_refused_upload_leaves_the_folder_and_says_where(hub, image_run, tmp_path, command, monkeypatch):
    monkeypatch.setattr(Hub, "failure", OSError("403 Forbidden: no right to write\nmore"))
    out = ("--format", "torchscript", "--output", tmp_path / "out")
    done = command("export", image_run.run.folder, *out, "--push-to-hub", "me/photos")
    assert done.status == 1
    assert "could not be uploaded to me/photos: 403 Forbidden: no right to write." in done.err
    assert f"`hf upload me/photos {tmp_path / 'out'}`" in done.err.replace("\n", " ")
    assert (tmp_path / "out" / "model.pt").is_file()


def test_what_was_to_be_private_stays_so_when_it_is_uploaded_by_hand(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "failure", OSError("timed out"))
    with pytest.raises(UnfreezeError, match=r"`hf upload me/photos '.*/my export' --private`\."):
        push(tmp_path / "my export", "me/photos", private=True)


def test_a_wrong_request_is_refused_before_any_work(hub, image_run, tmp_path, command, monkeypatch):
    for name in ("photos", "a/b/c", "a b/c"):
        with pytest.raises(RequestError, match="give OWNER/NAME"):
            check_hub(name)
    out = ("--output", tmp_path / "out")
    done = command("export", image_run.run.folder, *out, "--private")
    assert (done.status, "--private belongs to --push-to-hub" in done.err) == (2, True)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    done = command("export", image_run.run.folder, *out, "--push-to-hub", "me/photos")
    assert (done.status, "run `hf auth login`, or set HF_TOKEN" in done.err) == (2, True)
    assert hub.calls == ()
    assert not (tmp_path / "out").exists()


def test_the_library_is_named_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RequestError, match=r"--push-to-hub needs the extra 'hub'"):
        check_hub("me/photos")
