"""Every strategy in every format and family that can hold it, pair by pair, and what cannot be held is refused.

The pairs of three tables (strategies with their heads, families of backbones, formats) are covered by as few exports as
there can be; to what traces a network, strategies that leave the same one with other numbers are one. All exports are
loaded again in one fresh process and must give their runs' answers.
"""

import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unfreeze
from unfreeze import runtime
from unfreeze.bundle.loading import load
from unfreeze.config import STRATEGIES
from unfreeze.errors import RequestError
from unfreeze.exporting import formats, quantizing
from unfreeze.exporting import run as module
from unfreeze.exporting.network import Network
from unfreeze.exporting.run import export
from unfreeze.heads import probe, search

# The runs and exports of all pairs are one fixture, which a busy machine takes minutes for.
pytestmark = [pytest.mark.usefixtures("plain_torch"), pytest.mark.timeout(900), pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "exporting.md"
LIBRARIES = ("transformers", "timm", "peft")
# What an export takes, in turn: the price of a format times that of a family.
FORMATS = {
    "onnx": 8,
    "openvino": 7,
    "pt2": 4,
    "transformers": 2,
    "timm": 1,
    "peft": 1,
    "torchscript": 1,
}
FAMILIES = {"text": 1, "cnn": 2, "vit": 3}
HEADS = ("on one depth", "on depths joined", "mlp")
FLOOR = "feature-extraction"
TRAINED = tuple(name for name in STRATEGIES if name != FLOOR)
# What these leave differs in its numbers alone, so that whatever traces one traces the others: the dear formats take
# the first for all of them.
ALIKE = ("full", "partial", "discriminative", "gradual", "scratch", "contrastive")
TRACED = ("onnx", "openvino", "pt2")
VARIANTS = (*(f"{FLOOR}, {head}" for head in HEADS), *TRAINED)
TEXTS = ["storm election", "meeting " * 30, "prize"]


@dataclass(frozen=True)
class Made:
    """An export of a run; ``base``: where the network below a PEFT folder lies."""

    run: object
    format: str
    folder: Path
    file: Path
    base: Path | None


def held_by_the_page():
    """Strategy and format pairs that the page's matrix says can be had."""
    lines = [line.strip("|").split("|") for line in PAGE.read_text("utf-8").splitlines() if line[:1] == "|"]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {
        (strategy, format)
        for strategy, *cells in rows
        for names, cell in zip(header[1:], cells, strict=True)
        for format in names.split(", ")
        if cell != "–"
    }


def why_not(variant, family, format, held):
    """The sentence that refuses this export, or an empty string."""
    strategy, _, head = variant.partition(", ")
    if (strategy, format) not in held and not (strategy == "contrastive" and format == "timm"):
        return "has no class with bottleneck adapters" if strategy == "adapters" else "The run has no LoRA"
    if format == "timm" and family == "text":
        return "timm holds image models, and the run reads texts"
    if format in LIBRARIES and head == "mlp":
        return f"{format} has no class with an mlp head"
    if format in LIBRARIES and head == "on depths joined":
        return f"and the classes of {format} read .* alone"
    return ""


def has_run(variant, family):
    return (variant, family) != ("adapters", "cnn") and (variant != "contrastive" or family == "text")


def pairs(triple):
    return set(combinations(triple, 2))


def covering(triples):
    """Few of the triples that hold every pair of all, the cheaper ones first."""
    ordered = sorted(triples, key=lambda one: (FORMATS[one[2]] * FAMILIES[one[1]], one))
    missing, chosen = set().union(*map(pairs, ordered)), []
    while missing:
        best = max(ordered, key=lambda one: len(pairs(one) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


HELD = held_by_the_page()
ALL = [one for one in product(VARIANTS, FAMILIES, FORMATS) if has_run(*one[:2])]
THERE = [one for one in ALL if not why_not(*one, HELD)]
TRIED = [one for one in THERE if one[0] not in ALIKE[1:] or one[2] not in TRACED]
CHOSEN = covering([one for one in TRIED if one[2] != "openvino"])
# OpenVINO takes the runs of ONNX, whose graphs it is made from.
CHOSEN += [(*one[:2], "openvino") for one in CHOSEN if one[2] == "onnx"]


def test_the_covering_holds_every_pair_with_as_few_exports_as_there_can_be():
    assert set().union(*map(pairs, CHOSEN)) == set().union(*map(pairs, TRIED))
    assert set(CHOSEN) <= set(TRIED)
    # An export holds one pair of a format with a strategy, and one of a format with a family.
    least = sum(
        max(len({one[place] for one in TRIED if one[2] == format}) for place in (0, 1)) for format in FORMATS
    )
    assert len(CHOSEN) == least
    assert {one[2] for one in TRIED} == set(FORMATS) == set(module.CHOICES)


@pytest.fixture(scope="module")
def bases(tiny_cnn, tiny_vit, bert_folder):
    """The backbone of each family, and where its weights lie."""
    timm = {"cnn": tiny_cnn, "vit": tiny_vit}
    return {family: (name, Path(name.partition("@")[2])) for family, name in timm.items()} | {
        "text": (str(bert_folder), bert_folder)
    }


@contextmanager
def patched(cache):
    """No executor but plain PyTorch, and a cache. It ends with each run: others of the session are made in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("UNFREEZE_CACHE", str(cache))
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        yield patch


def replaced_in_places():
    """What the fixtures of this file replace while they train or export."""
    return (
        search.FIRST_PENALTIES,
        search.LEAST_PENALTY,
        search.GREATEST_PENALTY,
        probe._is_better,
        quantizing.measure_seconds,
        quantizing.MOST_LOSS,
        formats.write_onnx,
    )


GENUINE = replaced_in_places()


@pytest.fixture(scope="module")
def train(photos, few_mails, bases, tmp_path_factory):
    """A run of a variant on a family, with one penalty for the probe: how good it is does not matter here."""
    runs = tmp_path_factory.mktemp("runs")

    @cache
    def run(variant, family):
        strategy, _, head = variant.partition(", ")
        settings = {"strategy": strategy, "backbone": bases[family][0], "batch_size": 16, "device": "cpu"}
        # What is measured could train another network.
        settings |= {"precision": "fp32", "store": "on"}
        settings |= {"max_length": 8, "pooling": "native"} if family == "text" else {"image_size": 32}
        if strategy != FLOOR:
            settings |= {"epochs": 1, "views": 1}
        elif head == "mlp":
            settings["head"] = "mlp"
        name = re.sub(r"\W+", "-", f"{variant} {family}")
        data = few_mails if family == "text" else photos
        with patched(runs / "cache") as patch:
            patch.setattr(search, "FIRST_PENALTIES", (0.1,))
            patch.setattr(search, "LEAST_PENALTY", 1.0)
            patch.setattr(search, "GREATEST_PENALTY", 0.1)
            patch.setattr(probe, "_is_better", lambda *_: head == "on depths joined")
            return unfreeze.train(str(data), output_dir=runs / name, **settings)

    return run


def test_what_counts_as_alike_is_one_network_with_other_numbers(train):
    def traced(variant):
        classifier = load(train(variant, "text").folder).classifier
        network = Network(classifier)
        tensors = {name: (one.shape, one.dtype) for name, one in network.state_dict().items()}
        return str(network), tensors, classifier.head.boundaries

    assert all(traced(variant) == traced(ALIKE[0]) for variant in ALIKE)
    assert traced("feature-extraction, mlp") != traced(ALIKE[0])


@pytest.fixture(scope="module")
def made(train, bases, tmp_path_factory):
    """The chosen exports by variant, family and format. int8 is left behind whatever it is worth."""
    write_onnx, folder, found = formats.write_onnx, tmp_path_factory.mktemp("made"), {}
    # ONNX comes before OpenVINO, which is made from the same graph: no run is traced for it twice.
    for place, one in enumerate(sorted(CHOSEN)):
        variant, family, format = one
        beside = found.get((variant, family, "onnx"))

        def once(classifier, target, beside=beside):
            if beside is None:
                return write_onnx(classifier, target)
            return formats.Written(Path(shutil.copy(beside.file, target / "model.onnx")), {})

        run, target = train(variant, family), folder / str(place)
        with patched(folder / "cache") as patch:
            patch.setattr(quantizing, "measure_seconds", lambda *_: {1: (2.0, 1.0), 32: (2.0, 1.0)})
            patch.setattr(quantizing, "MOST_LOSS", 1.0)
            patch.setattr(formats, "write_onnx", once)
            done = export(run.folder, format=format, output=target, quantize=format == "onnx")
        found[one] = Made(run, format, target, done.file, bases[family][1])
    return found


@pytest.fixture(scope="module")
def pictures(photos, tmp_path_factory):
    wide = tmp_path_factory.mktemp("pictures") / "wide.png"
    pixels = np.random.default_rng(0).integers(0, 255, (20, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(wide)
    return [photos / "red" / "00.png", photos / "green" / "03.png", wide]


def graph_job(made, inputs, *, file=None):
    labels = list(made.run.model().labels)
    return {"file": str(file or made.file), "format": made.format, "inputs": inputs, "labels": labels}


def tolerance(probabilities):
    """What two ways to compute them may differ by: 1e-4, or what 2e-5 of the widest logits come to.

    A few steps of a toy can set logits 50 apart, and sums of float32 in another order keep five digits of them. A
    probability moves by a quarter of what its logit moves by, at most.
    """
    widest = np.ptp(np.log(np.maximum(probabilities, 1e-30)), axis=1).max()
    return max(1e-4, 0.25 * 2e-5 * widest)


def test_all_of_them_give_their_runs_answers_in_one_fresh_process(made, pictures, job_of, alone):
    assert replaced_in_places() == GENUINE
    jobs, wanted = {}, {}
    for one, done in made.items():
        inputs = TEXTS if one[1] == "text" else [str(path) for path in pictures]
        jobs[one] = job_of(done, pictures, TEXTS) if done.format in LIBRARIES else graph_job(done, inputs)
        wanted[one] = done.run.model().predict_proba(inputs)
        whole = (*one[:2], "run")
        jobs[whole] = graph_job(done, inputs, file=done.run.folder) | {"format": "run"}
        wanted[whole] = wanted[one]
        if done.format == "onnx":
            small = (*one[:2], "int8")
            jobs[small] = graph_job(done, inputs, file=done.folder / quantizing.FILE)
            # How far it is from the run is what its gate measures; a network of 16 numbers loses much.
            wanted[small] = runtime.load(done.folder / quantizing.FILE).predict_proba(inputs)
    for one, found in zip(jobs, alone(list(jobs.values())), strict=True):
        assert np.abs(found - wanted[one]).max() < tolerance(wanted[one]), one
        # One epoch from random weights tells nothing apart yet, and what int8 loses is not the matter here.
        if one[0] != "scratch" and one[2] != "int8":
            assert np.ptp(wanted[one][:, 0]) > 1e-3, f"{one} answers everything alike"


def test_what_the_page_does_not_promise_is_refused_in_its_words(train, tmp_path):
    refused = [one for one in ALL if one not in THERE]
    seen = set()
    for variant, family, format in refused:
        if {(variant, format), (family, format)} <= seen:
            continue
        seen |= {(variant, format), (family, format)}
        with pytest.raises(RequestError, match=why_not(variant, family, format, HELD)) as told:
            export(train(variant, family).folder, format=format, output=tmp_path / "out")
        assert told.value.exit_status == 2
    with pytest.raises(RequestError, match="puts bottlenecks behind the blocks of a transformer"):
        train("adapters", "cnn")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def dinov2(photos, tmp_path_factory):
    """A probe on DINOv2 ViT-S/14 at 98 pixels: random, or with the weights that UNFREEZE_DINOV2 names."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("dinov2")
    weights = os.environ.get("UNFREEZE_DINOV2")
    if weights is None:
        torch.manual_seed(2)
        weights = folder / "weights.safetensors"
        tensors = timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict()
        # At its start a block adds 1e-5 of what it computes: all pictures would look alike.
        scales = {
            name: torch.ones_like(tensor) for name, tensor in tensors.items() if name.endswith(".gamma")
        }
        save_file(tensors | scales, weights)
    with patched(folder / "cache") as patch:
        patch.setattr(probe, "_is_better", lambda *_: False)
        return unfreeze.train(
            str(photos),
            output_dir=folder / "run",
            strategy=FLOOR,
            backbone=f"timm:vit_small_patch14_dinov2@{weights}",
            image_size=98,
        )


def test_real_backbones_do_too(
    image_run, image_onnx, text_run, text_onnx, dinov2, tmp_path, pictures, job_of, alone
):
    assert replaced_in_places() == GENUINE

    def exported(run, format):
        done = export(run.folder, format=format, output=tmp_path / f"{len(made)}")
        return Made(run, format, tmp_path / f"{len(made)}", done.file, None)

    made = [
        Made(image_run.run, "onnx", image_onnx.file.parent, image_onnx.file, None),
        Made(text_run.run, "onnx", text_onnx.file.parent, text_onnx.file, None),
    ]
    for run, format in (
        (image_run.run, "torchscript"),
        (text_run.run, "torchscript"),
        (dinov2, "pt2"),
        (dinov2, "timm"),
    ):
        made.append(exported(run, format))
    names = [str(path) for path in pictures]
    jobs = [
        job_of(one, pictures)
        if one.format in LIBRARIES
        else graph_job(one, TEXTS if one.run is text_run.run else names)
        for one in made
    ]
    for one, job, found in zip(made, jobs, alone(jobs), strict=True):
        wanted = one.run.model().predict_proba(job["inputs"])
        assert np.abs(found - wanted).max() < 1e-4, (one.run.backbone, one.format)
        # Random weights may be as good as sure of all rows; two that were read alike would be the same to the bit.
        assert len(np.unique(found, axis=0)) > 1
