"""Toys that cross rooms: photographs, mails, and one training of each that many tests look at."""

from __future__ import annotations

import csv
import gc
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from unfreeze.exporting.run import Export
    from unfreeze.run import Run

# Before torch is loaded: on problems as small as these, waiting for a second thread costs more than it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A worker holds millions of objects of torch and its libraries, which Python's collector would walk over and over.
gc.set_threshold(50_000, 20, 50)

COLOURS = {"green": (70, 150, 80), "red": (150, 80, 70)}
IMAGES_PER_CLASS = 14
WORDS = {
    "ham": ("meeting", "report", "Monday", "draft", "agenda", "minutes"),
    "news": ("election", "storm", "minister", "border", "harvest", "strike"),
    "spam": ("prize", "winner", "cash", "claim", "offer", "urgent"),
}
TEXTS_PER_CLASS = 48
PROBED = {"strategy": "feature-extraction"}
LITE0 = {"backbone": "efficientnet-lite0", "image_size": 64} | PROBED
MINILM = {"backbone": "all-minilm-l6-v2", "max_length": 16} | PROBED


@dataclass(frozen=True)
class Trained:
    """A finished run, what it was trained on, where its features are stored, and what it said."""

    run: Run
    data: Path
    cache: Path
    settings: dict[str, object]
    said: tuple[str, ...]


@dataclass
class Recorder:
    """Keeps what a run reports."""

    said: list[str] = field(default_factory=list)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def count(self, what: str, done: int, total: int) -> None:
        pass


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "unfreeze-cache"))


@pytest.fixture
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No executor but plain PyTorch: OpenVINO's conversion costs three seconds a backbone."""
    _only_torch(monkeypatch)


@pytest.fixture(scope="session")
def tiny_cnn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a narrow residual network with random weights, for what any convolutional one shows."""
    return write_network("test_resnet", tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a narrow vision transformer with random weights, for what any one shows."""
    return write_network("test_vit", tmp_path_factory.mktemp("weights"))


def write_network(name: str, folder: Path) -> str:
    """timm's network of this name with random weights in ``folder``, as a user would name it."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), path)
    return f"timm:{name}@{path}"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy pictures of 40 x 36 pixels in two class folders, told apart by their colour."""
    root = tmp_path_factory.mktemp("data") / "photos"
    random = np.random.default_rng(5)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(IMAGES_PER_CLASS):
            # The colour wanders, so that the classes touch.
            centre = np.array(colour) + random.normal(0, 40, 3)
            pixels = np.clip(random.normal(centre, 20, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="session")
def mails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of short texts in three classes; every twelfth label is wrong."""
    path = tmp_path_factory.mktemp("data") / "mails.csv"
    write_mails(path, per_class=TEXTS_PER_CLASS, seed=1)
    return path


def write_mails(
    path: Path, *, per_class: int, seed: int, classes: tuple[str, ...] = tuple(WORDS), noise: int = 12
) -> None:
    random = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(per_class):
            for place, name in enumerate(classes):
                text = " ".join(random.choice(WORDS[name], 4)) + f" {seed}-{number}"
                wrong = noise and (number * len(classes) + place) % noise == noise - 1
                writer.writerow([text, classes[(place + 1) % len(classes)] if wrong else name])


@pytest.fixture
def make_mails() -> Callable[..., None]:
    return write_mails


@pytest.fixture(scope="session")
def image_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train_once(photos, tmp_path_factory.mktemp("image"), LITE0)


@pytest.fixture(scope="session")
def text_run(mails: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train_once(mails, tmp_path_factory.mktemp("text"), MINILM)


@pytest.fixture(scope="session")
def image_onnx(image_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The photographs' run as ONNX, which takes ten seconds."""
    from unfreeze.exporting.run import export

    with pytest.MonkeyPatch.context() as patch:
        _only_torch(patch)
        return export(image_run.run.folder, output=tmp_path_factory.mktemp("onnx") / "image")


@pytest.fixture
def stopping() -> Callable[[int], AbstractContextManager[None]]:
    """A block within which trainings are asked to stop after so many steps, and end with a StoppedError."""
    from unfreeze.errors import StoppedError

    @contextmanager
    def after(steps: int) -> Iterator[None]:
        seen: list[int] = []

        @contextmanager
        def asked(progress: object) -> Iterator[Callable[[], bool]]:
            yield lambda: len(seen) >= steps or bool(seen.append(0))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unfreeze.training.thawing.stop_on_signal", asked)
            with pytest.raises(StoppedError, match="--resume"):
                yield

    return after


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that a tokenizer is given, in whichever way."""
    from unfreeze.runtime.tokenize import TextEncoder

    given: list[str] = []
    encodings = TextEncoder._encodings

    def noting(self: TextEncoder, texts: Sequence[str]) -> Iterator[Any]:
        given.extend(texts)
        return encodings(self, texts)

    monkeypatch.setattr(TextEncoder, "_encodings", noting)
    return given


@pytest.fixture
def store() -> Iterator[Any]:
    """The store behind ``memory://`` URLs, empty."""
    import fsspec

    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def object_server() -> Iterator[str]:
    """The address of an S3 server that lives in this process."""
    with warnings.catch_warnings():
        # Of packages that the server's other services need and that this machine's versions complain about.
        warnings.simplefilter("ignore", DeprecationWarning)
        from moto.server import ThreadedMotoServer
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def s3(object_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system of that server, which has one bucket, ``toys``, empty."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_ENDPOINT_URL": object_server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    store.mkdir("toys")
    yield store
    store.invalidate_cache()
    store.rm("toys", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def t() -> ModuleType:
    """Everything of tests/toys.py, which loads torch."""
    return _beside("toys")


@pytest.fixture(scope="session")
def together() -> Callable[..., list[Any]]:
    """Runs something in several processes; see tests/ranked.py."""
    run: Callable[..., list[Any]] = _beside("ranked").together
    return run


def _beside(name: str) -> ModuleType:
    """A module of this folder that holds no tests."""
    spec = importlib.util.spec_from_file_location(f"training_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs ``unfreeze ARGUMENTS`` in this process."""
    from unfreeze.cli.app import main

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["unfreeze", *map(str, arguments)])
        capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as stopped:
            status = stopped.code
        printed = capsys.readouterr()
        return Answer(status if isinstance(status, int) else 0, printed.out, printed.err)

    return call


def _train_once(data: Path, folder: Path, settings: dict[str, object]) -> Trained:
    import unfreeze

    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE", str(folder / "cache"))
        _only_torch(patch)
        run = unfreeze.train(str(data), output_dir=folder / "run", progress=recorder, **settings)  # type: ignore[arg-type]
    return Trained(run, data, folder / "cache", settings, tuple(recorder.said))


def _only_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
