"""What is fuzzed: for each target a function of bytes that returns, or raises where the program is defective.

Allowed is a value, the program's own error, or a status below 500. Anything else that comes out of ``run`` is a defect:
another exception, a warning, an answer of nonsense. Where a target has several doors, the first line of an input says
which, so that an input is one file and can be kept as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from unittest import mock

import numpy as np

TABLES = ("csv", "tsv", "jsonl", "parquet")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "claim", "your", "prize", "the", "minister")
# Rows that are read of what a table turned out to hold.
MOST_ROWS = 4
SAFETENSORS_LENGTH = 8


class DefectError(AssertionError):
    """The program answered, and wrongly."""


@contextmanager
def shown_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collects the warnings that a person would be shown; the command line silences what Pillow says of a file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for category in (ResourceWarning, DeprecationWarning, PendingDeprecationWarning, ImportWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield caught


class Targets:
    """The targets by name over a folder of their own; runs and servers are made when they are first needed."""

    def __init__(self) -> None:
        # How often something was read; the rest was refused.
        self.values = 0
        self._open = ExitStack()
        self.folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="unfreeze-fuzz-")))
        self.named: dict[str, Callable[[bytes], None]] = {
            **{kind: self._table(kind) for kind in TABLES},
            "config": self.config,
            "image": self.image,
            "bundle": self.bundle,
            "http": self.http,
        }

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Lets the program's own error pass, and counts values; a warning is a defect."""
        from unfreeze.errors import UnfreezeError

        with shown_warnings() as caught:
            try:
                yield
                self.values += 1
            except UnfreezeError as problem:
                if not str(problem).strip():
                    raise DefectError("an error without a sentence") from problem
        if caught:
            raise DefectError(f"{caught[0].category.__name__}: {caught[0].message}")

    def close(self) -> None:
        """Stop the server and remove what was written."""
        self._open.close()

    # -- tables

    def _table(self, kind: str) -> Callable[[bytes], None]:
        def run(data: bytes) -> None:
            from unfreeze.data.load import load_dataset, load_whole
            from unfreeze.data.tables import open_table

            path = self.folder / f"table.{kind}"
            path.write_bytes(data)
            with self.judged():
                rows_are_sound(load_dataset(str(path), seed=3))
            with self.judged():
                rows_are_sound(load_whole(str(path)))
            names = ["text", "label"]
            with self.judged():
                names = list(open_table(path).head.column_names)
            first, middle, last = names[0], names[len(names) // 2], names[-1]
            for columns in (
                {"text_column": first, "label_column": last},
                {"text_column": last, "label_column": first, "stratify_column": middle},
                {"image_column": first, "label_column": last, "group_column": middle},
            ):
                with self.judged():
                    rows_are_sound(load_dataset(str(path), **columns))
            self._inputs(path, last)

        return run

    def _inputs(self, path: Path, column: str) -> None:
        from unfreeze.data.inputs import open_inputs
        from unfreeze.data.reading import read_raw

        for modality, asked in (("text", None), ("image", None), ("text", column), ("image", column)):
            with self.judged():
                found = open_inputs([str(path)], modality=modality, lines=None, column=asked)
                for row in range(min(len(found), MOST_ROWS)):
                    read_raw(found, row)

    # -- configuration files

    def config(self, data: bytes) -> None:
        """A YAML file of settings, as ``train --config`` takes it."""
        from unfreeze.config import TrainRequest, bytes_of, read_config, seconds_of
        from unfreeze.data.load import load_dataset

        path, table = self.folder / "config.yaml", self.folder / "mails.csv"
        path.write_bytes(data)
        if not table.exists():
            table.write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(12)))
        with self.judged():
            request = TrainRequest(data=str(table)).filled_from(
                read_config(path), source="--config config.yaml"
            )
            request.check()
            if request.store_budget is not None:
                bytes_of(request.store_budget)
            if request.time_limit is not None:
                seconds_of(request.time_limit)
            given = {name: getattr(request, name) for name in ("val", "test")}
            # A word is a path of this machine, or a data set of the hub.
            if not any(isinstance(value, str) for value in given.values()):
                load_dataset(request.data, **given)

    # -- pictures

    def image(self, data: bytes) -> None:
        """The bytes of a picture, through every door that decodes."""
        from unfreeze.errors import UnfreezeError
        from unfreeze.runtime.decode import (
            BadImage,
            decode_image,
            inspect_image,
            open_picture,
            verify_image,
        )
        from unfreeze.runtime.preprocess import ImagePreprocess

        normal = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
        for preprocess in (
            ImagePreprocess(9, 9, **normal),
            ImagePreprocess(8, 12, fit="crop", crop_fraction=0.875, draft=False, **normal),
            ImagePreprocess(12, 8, fit="pad", interpolation="lanczos", **normal),
        ):
            with self.judged():
                try:
                    pixels = decode_image(data, preprocess)
                except BadImage as problem:
                    raise UnfreezeError(str(problem)) from problem
                else:
                    if pixels.shape != (preprocess.height, preprocess.width, 3) or pixels.dtype != np.uint8:
                        raise DefectError(f"{pixels.dtype} {pixels.shape}")
                    inspect_image(data)
        for call in (inspect_image, verify_image, open_picture):
            with self.judged():
                try:
                    call(data)
                except BadImage as problem:
                    raise UnfreezeError(str(problem)) from problem

    # -- run folders

    def bundle(self, data: bytes) -> None:
        """A run folder with one file that is not as it was saved.

        The first line says which: ``RUN FILE HOW``. HOW is ``as-is`` (the rest is the file), ``hashed`` (and its hash
        in bundle.json is the new one), ``header`` (the rest is the JSON header of a safetensors file, whose data stay)
        or ``patch`` (the rest is JSON: a list of pairs of a place and a byte); the last two are hashed too.
        """
        from unfreeze.bundle.loading import load
        from unfreeze.evaluate.calibration import softmax

        first, _, rest = data.partition(b"\n")
        words = first.decode("ascii", errors="replace").split()
        if len(words) != 3 or words[0] not in self.runs:
            return
        source = self.runs[words[0]]
        names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
        if words[1] not in names:
            return
        content = changed_file((source / words[1]).read_bytes(), rest, words[2])
        if content is None:
            return
        run = self.folder / "changed"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(source, run)
        (run / words[1]).write_bytes(content)
        if words[2] != "as-is" and words[1] != "bundle.json":
            bundle = json.loads((run / "bundle.json").read_bytes())
            bundle["files"][words[1]] = hashlib.sha256(content).hexdigest()
            (run / "bundle.json").write_text(json.dumps(bundle))
        with self.judged():
            found = load(run)
            # What it answers must be what it was saved with, even so.
            logits = found.classifier.logits(golden_inputs(run))
            if not np.isfinite(softmax(logits.numpy(), found.classifier.temperature)).all():
                raise DefectError("probabilities that are no numbers")
            self._open_as_others_do(run)

    def _open_as_others_do(self, run: Path) -> None:
        from unfreeze.bundle.examples import read_examples
        from unfreeze.bundle.loading import read_bundle

        read_examples(run, read_bundle(run))

    @cached_property
    def runs(self) -> dict[str, Path]:
        """A run on pictures and one on texts, of networks of random weights."""
        return {kind: write_run(self.folder / "runs" / kind, kind) for kind in ("photos", "mails")}

    # -- the server

    def http(self, data: bytes) -> None:
        """A request: ``METHOD PATH CONTENT-TYPE`` in the first line, then the body."""
        first, _, body = data.partition(b"\n")
        method, _, rest = first.partition(b" ")
        path, _, kind = rest.partition(b" ")
        if method not in (b"POST", b"PUT", b"GET", b"DELETE") or not path.startswith(b"/"):
            return
        if path.startswith(b"//"):
            # Another host, to the client.
            return
        if not (path.isascii() and path.decode().isprintable()) or any(byte < 32 for byte in kind):
            # No server hands these on.
            return
        with shown_warnings() as caught:
            answer = self.client.request(
                method.decode(), path.decode(), content=body, headers={b"content-type": kind} if kind else {}
            )
        if caught:
            raise DefectError(f"{caught[0].category.__name__}: {caught[0].message}")
        self.values += answer.status_code < 400
        if answer.status_code >= 500:
            raise DefectError(f"status {answer.status_code}: {answer.text[:200]}")
        if "json" in answer.headers.get("content-type", ""):
            found = json.loads(answer.content, parse_constant=_no_constant)
            if answer.status_code >= 400 and not isinstance(found["detail"], str):
                raise DefectError(f"status {answer.status_code} without a sentence: {found}")

    @cached_property
    def client(self):
        """A client of a server with both runs, where one of them may be changed."""
        from fastapi.testclient import TestClient

        from unfreeze.serving.app import Access, make_app
        from unfreeze.serving.limits import Limits
        from unfreeze.serving.meters import Meters
        from unfreeze.serving.tasks import Registry

        # Converting a network for OpenVINO takes longer than thousands of requests.
        plain = mock.patch("unfreeze.serving.network.available_executors", return_value=("torch-fp32",))
        self._open.enter_context(plain)
        registry = Registry(Limits(wait=0.0, body=2**20, text=10_000, inputs=8, pixels=10**6))
        for name, folder in self.runs.items():
            registry.put(name, folder)
        app = make_app(registry, Meters(), Access(changes=self.folder / "runs"))
        return self._open.enter_context(TestClient(app))


def _no_constant(name: str) -> None:
    raise DefectError(f"{name} in JSON")


def rows_are_sound(dataset) -> None:
    """Reads some rows, and looks at the labels."""
    from unfreeze.data.reading import read_raw

    if not all(isinstance(name, str) and name.strip() for name in dataset.labels):
        raise DefectError(f"a class without a name among {dataset.labels.names}")
    if len(dataset.label) != len(dataset.samples) or dataset.label.max(initial=0) >= len(dataset.labels):
        raise DefectError("labels that do not fit the rows")
    for row in range(min(len(dataset), MOST_ROWS)):
        read_raw(dataset.samples, row)
        if not dataset.samples.name(row):
            raise DefectError("a row without a name")
    dataset.fingerprint  # noqa: B018 - computed when asked for


def golden_inputs(run: Path):
    """The golden inputs of a run folder that was loaded."""
    from safetensors.torch import load_file

    from unfreeze.contracts import State

    found = load_file(run / "golden.safetensors")
    return State(found["h"], found["mask"].bool() if "mask" in found else None)


def changed_file(content: bytes, rest: bytes, how: str) -> bytes | None:
    """The file's new content; None where the input does not say one."""
    if how in ("as-is", "hashed"):
        return rest
    if how == "header" and len(content) > SAFETENSORS_LENGTH:
        end = SAFETENSORS_LENGTH + int.from_bytes(content[:SAFETENSORS_LENGTH], "little")
        return len(rest).to_bytes(SAFETENSORS_LENGTH, "little") + rest + content[end:]
    if how == "patch":
        try:
            pairs = [(int(place), int(byte)) for place, byte in json.loads(rest)]
        except (ValueError, TypeError, RecursionError, OverflowError):
            return None
        patched = bytearray(content)
        for place, byte in pairs:
            patched[place % len(patched)] = byte % 256
        return bytes(patched)
    return None


def write_run(folder: Path, kind: str) -> Path:
    """The folder of a run on a tiny network of random weights."""
    import torch

    from unfreeze.bundle.classifier import Classifier, Threshold
    from unfreeze.bundle.examples import Examples, unit, write_examples
    from unfreeze.bundle.folder import Story, save
    from unfreeze.contracts import State
    from unfreeze.heads.head import Head
    from unfreeze.runtime.labels import Labels
    from unfreeze.runtime.reading import Reader

    backbone, raws = (_photo_network if kind == "photos" else _mail_network)(
        folder.parent / f"{kind}-weights"
    )
    chance = torch.Generator().manual_seed(1)
    weight = (torch.randn((3, backbone.dim), generator=chance) / backbone.dim**0.5).numpy()
    head = Head("linear", (len(backbone.stages),), {"weight": weight, "bias": weight[:, 0].copy()})
    reader = Reader(backbone.preprocess, backbone.assets.get("tokenizer.json"))
    batch = reader.batch([reader.prepare(raw) for raw in raws])
    features = np.random.default_rng(1).normal(size=(4, backbone.dim)).astype(np.float32)
    examples = Examples(
        features=unit(features).astype(np.float16),
        labels=np.array([0, 1, 2, 0], np.int32),
        names=("one", "two", "three", "four"),
        shown=tuple(raws[:1] * 4),
    )
    folder.mkdir(parents=True)
    classifier = Classifier(
        backbone, head, Labels(("ham", "news", "spam")), temperature=1.5, threshold=Threshold(0.5, 0.9, 0.8)
    )
    story = Story("feature-extraction", "nothing", 0, "nowhere", "none", {"train": 3}, "now")
    golden = State(*map(torch.from_numpy, batch.values()))
    save(classifier, folder, story=story, golden=golden, examples=write_examples(examples))
    return folder


def _photo_network(folder: Path):
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from unfreeze.backbones import load_backbone

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "tiny.safetensors")
    backbone = load_backbone(f"timm:test_vit@{folder / 'tiny.safetensors'}", modality="image", image_size=32)
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return backbone, [buffer.getvalue()]


def _mail_network(folder: Path):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel

    from unfreeze.backbones import load_backbone
    from unfreeze.backbones.hf_loading import quiet_transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    with quiet_transformers():
        config = AutoConfig.for_model(
            "bert", vocab_size=len(WORDS), max_position_embeddings=40, pad_token_id=0, **sizes
        )
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "[PAD]", "model_max_length": 40}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    backbone = load_backbone(str(folder), modality="text", max_length=16)
    return backbone, ["claim your prize", "the minister"]
