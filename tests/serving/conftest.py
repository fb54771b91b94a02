import pytest

import unfreeze


@pytest.fixture(scope="session")
def other_mails(mails, tmp_path_factory):
    """A second run on the same network as ``text_run``, from other rows."""
    folder = tmp_path_factory.mktemp("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE", str(folder / "cache"))
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        return unfreeze.train(
            str(mails),
            output_dir=folder / "run",
            strategy="feature-extraction",
            backbone="all-minilm-l6-v2",
            max_length=16,
            seed=5,
        )


@pytest.fixture(autouse=True)
def _only_torch(monkeypatch):
    monkeypatch.setattr("unfreeze.serving.hosting.available_executors", lambda device: ("torch-fp32",))
    monkeypatch.setattr("unfreeze.model.available_executors", lambda device: ("torch-fp32",))
