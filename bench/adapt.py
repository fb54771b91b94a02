"""What adapting to a new domain is worth, and whether the gate takes it only where it helps.

    python bench/adapt.py --results FILE solar corruptions digits traps digit-traps mails=MAILS.parquet

Frozen features of EfficientNet-Lite0 (images) and MiniLM (mails), computed once a domain; every case is a source with a
probe, a target whose labels only this bench sees, and every method on it. ``auto`` is what the gate returns: a method's
answers, or the source's own. The ceiling is a probe cross-validated on the target's labels. Harm is what ``auto`` loses
of balanced accuracy, in points, where every class of the target has rows, else of accuracy; a verdict is right if that
is half a point at most. What the file of results holds is not computed again; without a case the table of the file is
printed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from kept import Kept
from unfreeze.adapting.gate import decide
from unfreeze.adapting.methods import METHODS, SOUND
from unfreeze.adapting.scene import Known, NotPossibleError, Scene
from unfreeze.adapting.shift import measure_shift
from unfreeze.adapting.signs import Reader, balanced_accuracy
from unfreeze.adapting.trying import try_methods
from unfreeze.backbones import load_backbone
from unfreeze.bundle.classifier import Classifier
from unfreeze.contracts import Backbone, State
from unfreeze.data.augment import augment
from unfreeze.demo import solar_cells
from unfreeze.evaluate.calibration import fit_temperature, softmax
from unfreeze.executors import build_executor
from unfreeze.heads.probe import fit_probe
from unfreeze.progress import Silent
from unfreeze.runtime.labels import Labels

Features = dict[int, NDArray[np.float32]]
BATCH = 64
VAL_SHARE = 0.15
HARMLESS = 0.5
BASELINES = ("pseudo-label", "strong")


@dataclass(frozen=True, eq=False)
class Domain:
    """Rows with features at every depth; ``pixels`` where they are images, for views and statistics."""

    features: Features
    y: NDArray[np.intp]
    pixels: NDArray[np.uint8] | None = None

    def select(self, rows: NDArray[np.intp]) -> Domain:
        pixels = None if self.pixels is None else self.pixels[rows]
        return Domain({b: block[rows] for b, block in self.features.items()}, self.y[rows], pixels)


def run_network(backbone: Backbone, pixels: NDArray[np.uint8], boundaries: tuple[int, ...]) -> Features:
    import torch

    executor = build_executor("openvino-fp32", backbone, boundaries=boundaries)
    parts = [
        [
            summary.numpy()
            for summary in executor(State(torch.from_numpy(pixels[start : start + BATCH]))).summaries
        ]
        for start in range(0, len(pixels), BATCH)
    ]
    return {b: np.concatenate([part[place] for part in parts]) for place, b in enumerate(boundaries)}


def domain_of(backbone: Backbone, pixels: NDArray[np.uint8], y: NDArray[np.intp]) -> Domain:
    return Domain(run_network(backbone, pixels, tuple(range(1, len(backbone.stages) + 1))), y, pixels)


def make_scene(
    backbone: Backbone,
    source: Domain,
    target: Domain,
    names: tuple[str, ...],
    seed: int,
    order: NDArray[np.intp] | None,
) -> Scene:
    """A probe on the source, as ``train --strategy feature-extraction`` fits it to the training rows.

    The network's running statistics are pretraining's, so that ``adapt`` would not estimate them anew either.
    """
    shuffled = np.random.default_rng(seed).permutation(len(source.y))
    held = round(VAL_SHARE * len(shuffled))
    val, train = source.select(shuffled[:held]), source.select(shuffled[held:])
    probe = fit_probe(
        train.features, train.y.astype(np.int32), classes=len(names),
        boundaries_names={b: str(b) for b in train.features}, seed=seed, groups=None,
        class_weight="balanced", kind="linear",
    ).probe  # fmt: skip
    unseen = probe.held_out
    temperature = fit_temperature(probe.oof_logits[unseen], train.y[unseen])
    classifier = Classifier(backbone, probe.head, Labels(names), temperature)
    logits = probe.head.logits(np.concatenate([val.features[b] for b in probe.head.boundaries], axis=1))

    def strong(domain: Domain) -> Callable[[], Features] | None:
        if domain.pixels is None:
            return None
        return lambda: _strong(backbone, domain, seed)

    return Scene(
        classifier=classifier, train=Known(train.features, train.y), val=Known(val.features, val.y),
        val_answers=softmax(logits, temperature), target=target.features, seed=seed, threshold=0.9, order=order,
        strong=_once(strong(target)), strong_train=_once(strong(train)),
    )  # fmt: skip


def _once(make: Callable[[], Any] | None) -> Callable[[], Any] | None:
    from functools import cache

    return None if make is None else cache(make)


def _strong(backbone: Backbone, domain: Domain, seed: int) -> Features:
    import torch

    assert domain.pixels is not None
    keys = np.arange(len(domain.y)).astype(np.uint64)
    varied = [
        augment(
            torch.from_numpy(domain.pixels[start : start + BATCH]), "strong", seed=seed, round_=0,
            keys=keys[start : start + BATCH],
        ).numpy()
        for start in range(0, len(keys), BATCH)
    ]  # fmt: skip
    return run_network(backbone, np.concatenate(varied), tuple(domain.features))


def measure(
    case: str, backbone: Backbone, source: Domain, target: Domain, names: tuple[str, ...], seed: int,
    *, order: NDArray[np.intp] | None = None, baselines: bool = False, known: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One case: what every method and the gate come to. ``known``: classes that the source has, for new ones beyond."""
    scene = make_scene(backbone, source, target, names, seed, order)
    judged = np.arange(len(target.y)) if known is None else np.flatnonzero(target.y < known)
    if order is not None:
        judged = scene.newest
    y = target.y[judged]
    reader = Reader(scene)
    before = reader.before()
    shift = measure_shift(reader, before, {b: str(b) for b in scene.target})
    trials, _ = try_methods(scene, SOUND, before, reader, Silent())
    verdict = decide(scene, shift, before, [one.candidate for one in trials], rows=len(target.y))
    answers = {"source": scene.probabilities(scene.target)}
    answers |= {one.proposal.method: softmax(one.proposal.logits) for one in trials}
    for name in BASELINES if baselines else ():
        try:
            answers[name] = softmax(METHODS[name](scene).logits)
        except NotPossibleError as problem:
            print(f"{case}, {name}: {problem}", flush=True)
    answers["auto"] = answers[verdict.method or "source"]
    scores = {name: _scores(y, found[judged]) for name, found in answers.items()}
    if baselines:
        scores["ceiling"] = _ceiling(target, len(names), seed)
    return {
        "case": case,
        "seed": seed,
        "rows": len(target.y),
        "verdict": verdict.kind,
        "method": verdict.method,
        "reasons": verdict.reasons,
        "within_classes": shift.within_classes,
        "scores": scores,
        "all_classes": len(np.unique(y)) == len(names),
    }


def _scores(y: NDArray[np.intp], answers: NDArray[np.float64]) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    labels = answers.argmax(axis=1)
    found = {"accuracy": float((labels == y).mean()), "balanced": balanced_accuracy(y, labels)}
    if answers.shape[1] == 2 and len(np.unique(y)) == 2:
        found["auc"] = float(roc_auc_score(y, answers[:, 1]))
    return found


def _ceiling(target: Domain, classes: int, seed: int) -> dict[str, float]:
    probe = fit_probe(
        target.features, target.y.astype(np.int32), classes=classes,
        boundaries_names={b: str(b) for b in target.features}, seed=seed, groups=None,
        class_weight="balanced", kind="linear",
    ).probe  # fmt: skip
    return _scores(target.y, softmax(probe.oof_logits))


# -- the cases


@dataclass(frozen=True, eq=False)
class Case:
    """A case by name and seed, and how to measure it."""

    name: str
    seed: int
    measure: Callable[[], dict[str, Any]]

    @classmethod
    def of(
        cls, name: str, backbone: Backbone, source: Domain, target: Domain, names: tuple[str, ...], seed: int,
        **options: Any,
    ) -> Case:  # fmt: skip
        return cls(name, seed, partial(measure, name, backbone, source, target, names, seed, **options))


def cells() -> tuple[NDArray[np.uint8], NDArray[np.intp], NDArray[np.str_]]:
    found = solar_cells()
    pixels = np.stack(
        [
            np.asarray(Image.open(one.image).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
            for one in found
        ]
    )
    y = np.array([one.label == "functional" for one in found]).astype(np.intp)
    return pixels, y, np.array([one.kind for one in found])


Change = Callable[[Image.Image, float], Image.Image]
NAMES = ("defective", "functional")
KINDS = ("mono", "poly")


def solar(seeds: int) -> Iterator[Case]:
    backbone = load_backbone("efficientnet-lite0", modality="image")
    pixels, y, kind = cells()
    whole = domain_of(backbone, pixels, y)
    for source, target in (KINDS, KINDS[::-1]):
        for seed in range(seeds):
            here, there = (whole.select(np.flatnonzero(kind == one)) for one in (source, target))
            yield Case.of(f"{source} to {target}", backbone, here, there, NAMES, seed, baselines=True)


def _changes(
    chance: np.random.Generator,
) -> Mapping[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, ...]]]:
    def jpeg(image: Image.Image, quality: float) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(quality))
        return Image.open(buffer).convert("RGB")

    def noise(image: Image.Image, deviation: float) -> Image.Image:
        values = np.asarray(image) + chance.normal(0, deviation, (image.height, image.width, 3))
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))

    def impulse(image: Image.Image, share: float) -> Image.Image:
        values = np.asarray(image).copy()
        hit = chance.random(values.shape[:2])
        values[hit < share / 2], values[hit > 1 - share / 2] = 0, 255
        return Image.fromarray(values)

    def pixelate(image: Image.Image, factor: float) -> Image.Image:
        side = int(image.width / factor)
        return image.resize((side, side)).resize(image.size, Image.Resampling.NEAREST)

    def gamma(image: Image.Image, power: float) -> Image.Image:
        return Image.fromarray((255 * (np.asarray(image) / 255.0) ** power).round().astype(np.uint8))

    def move(image: Image.Image, share: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, (1, share, 0, 0, 1, 0))

    return {
        "blur": (lambda image, radius: image.filter(ImageFilter.GaussianBlur(radius)), (1, 2, 4)),
        "box blur": (lambda image, radius: image.filter(ImageFilter.BoxBlur(radius)), (1, 3, 6)),
        "noise": (noise, (10, 25, 60)),
        "impulse noise": (impulse, (0.01, 0.05, 0.2)),
        "contrast": (lambda image, factor: ImageEnhance.Contrast(image).enhance(factor), (0.7, 0.4, 0.2)),
        "brightness": (lambda image, factor: ImageEnhance.Brightness(image).enhance(factor), (1.2, 1.5, 0.4)),
        "gamma": (gamma, (0.8, 1.5, 2.5)),
        "JPEG": (jpeg, (40, 15, 5)),
        "pixels": (pixelate, (1.5, 3, 6)),
        "shear": (move, (0.05, 0.15, 0.3)),
    }  # fmt: skip


def corruptions(seeds: int) -> Iterator[Case]:
    backbone = load_backbone("efficientnet-lite0", modality="image")
    pixels, y, _ = cells()
    for seed in range(min(seeds, 1)):
        chance = np.random.default_rng(seed)
        shuffled = chance.permutation(len(y))
        test, train = shuffled[:400], shuffled[400:1600]
        source = domain_of(backbone, pixels[train], y[train])
        for name, (change, strengths) in _changes(chance).items():
            for strength, value in enumerate(strengths, start=1):
                changed = np.stack([np.asarray(change(Image.fromarray(pixels[row]), value)) for row in test])
                target = domain_of(backbone, changed, y[test])
                yield Case.of(
                    f"{name}, strength {strength}", backbone, source, target, NAMES, seed, baselines=True
                )


def turned(angle: float) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = [
        Image.fromarray((one * 16).clip(0, 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        for one in found.images
    ]
    pixels = [np.asarray(one.rotate(angle, Image.Resampling.BICUBIC).convert("RGB")) for one in images]
    return np.stack(pixels), found.target.astype(np.intp)


DIGITS = tuple(str(digit) for digit in range(10))


def digits(seeds: int) -> Iterator[Case]:
    """Turned from 0 to 90 degrees: directly, and in steps of 10 with other rows in every step."""
    backbone = load_backbone("efficientnet-lite0", modality="image", image_size=64)
    angles = range(0, 91, 10)
    domains = {angle: domain_of(backbone, *turned(angle)) for angle in angles}
    for seed in range(seeds):
        parts = np.array_split(np.random.default_rng(seed).permutation(len(domains[0].y)), 10)
        source = domains[0].select(np.concatenate(parts[:3]))
        rest = np.concatenate(parts[3:])
        for angle in (20, 45, 60, 90):
            there = domains.get(angle) or domain_of(backbone, *turned(angle))
            yield Case.of(f"digits turned by {angle}", backbone, source, there.select(rest), DIGITS, seed)
        # Every step sees the same rows: 1,797 digits are too few for ten parts of their own.
        few = rest[:400]
        steps = [domains[angle].select(few) for angle in angles if angle]
        whole = Domain(
            {b: np.concatenate([one.features[b] for one in steps]) for b in steps[0].features},
            np.concatenate([one.y for one in steps]),
        )
        order = np.repeat(np.arange(len(steps)), len(few))
        yield Case.of("digits turned to 90 in steps", backbone, source, whole, DIGITS, seed, order=order)


def traps(seeds: int) -> Iterator[Case]:
    backbone = load_backbone("efficientnet-lite0", modality="image")
    pixels, y, kind = cells()
    whole = domain_of(backbone, pixels, y)
    for seed in range(seeds):
        chance = np.random.default_rng(seed)
        halves = np.array_split(chance.permutation(len(y)), 2)
        source, rest = (whole.select(np.sort(half)) for half in halves)
        defective, sound = (np.flatnonzero(rest.y == label) for label in (0, 1))
        few = chance.permutation(len(rest.y))[:20]
        mostly = np.concatenate([defective, chance.choice(sound, len(defective) // 2, replace=False)])
        noise = chance.integers(0, 256, (200, 224, 224, 3)).astype(np.uint8)
        blurred = np.stack(
            [np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(2))) for one in rest.pixels]
        )
        dull = domain_of(backbone, blurred, rest.y)
        poly = np.flatnonzero(kind == "poly")
        mono = whole.select(np.flatnonzero(kind == "mono"))
        shifted = whole.select(poly)
        cases = {
            "the same domain": (source, rest),
            "one class missing": (source, rest.select(sound)),
            "class shares reversed": (source, rest.select(mostly)),
            "blurred, one class missing": (source, dull.select(sound)),
            "blurred, class shares reversed": (source, dull.select(mostly)),
            "20 rows": (source, rest.select(few)),
            "pure noise": (source, domain_of(backbone, noise, chance.integers(0, 2, 200))),
            "other kind, 20 rows": (mono, shifted.select(chance.permutation(len(poly))[:20])),
            "other kind, one class missing": (mono, shifted.select(np.flatnonzero(shifted.y == 1))),
            "other kind, the other class missing": (mono, shifted.select(np.flatnonzero(shifted.y == 0))),
        }
        for name, (here, there) in cases.items():
            yield Case.of(name, backbone, here, there, NAMES, seed)


def digit_traps(seeds: int) -> Iterator[Case]:
    """Classes that are missing or new, where the digits are as they were and where they are turned."""
    backbone = load_backbone("efficientnet-lite0", modality="image", image_size=64)
    domains = {angle: domain_of(backbone, *turned(angle)) for angle in (0, 20, 30)}
    upright = domains[0]
    for seed in range(seeds):
        shuffled = np.random.default_rng(seed).permutation(len(upright.y))
        first, second = shuffled[:900], shuffled[900:]
        source, known = upright.select(first), upright.select(first[upright.y[first] < 7])
        for angle, domain in domains.items():
            name = f"digits turned by {angle}" if angle else "digits"
            there = domain.select(second)
            for missing, kept in (("5 to 9", there.y < 5), ("0 to 4", there.y >= 5)):
                few = there.select(np.flatnonzero(kept))
                yield Case.of(f"{name}, {missing} missing", backbone, source, few, DIGITS, seed)
            yield Case.of(f"{name}, new classes", backbone, known, there, DIGITS[:7], seed, known=7)


def mails(seeds: int, path: Path) -> Iterator[Case]:
    import pyarrow.parquet as pq

    from unfreeze.adapting.passes import Passes
    from unfreeze.choose.settings import Decisions
    from unfreeze.config import TrainRequest
    from unfreeze.data.load import load_dataset
    from unfreeze.training.prepare import open_backbone

    table = pq.read_table(path).to_pandas()
    group = table["group"]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            late = group == "spam-2"
            chosen = np.random.default_rng(seed).random(len(table)) < 0.5
            cases = {
                "harder mails": table[(group == "hard-ham-1") | (late & chosen)],
                "later mails": table[(group == "easy-ham-2") | late],
            }
            first = table[group.isin(["easy-ham-1", "spam-1"])]
            found = {}
            for name, rows in {"source": first, **cases}.items():
                file = Path(folder) / f"{name}.parquet"
                rows[["text", "label"]].to_parquet(file)
                dataset = load_dataset(str(file))
                decisions = Decisions(TrainRequest(data=str(file), max_length=128))
                backbone = open_backbone(dataset, decisions, Silent())
                every = np.arange(len(dataset))
                passes = Passes.of(backbone, dataset, every, device="cpu", seed=seed, progress=Silent())
                passed = passes.features(dataset, every, name)
                found[name] = Domain(passed.arrays, dataset.label[passed.rows].astype(np.intp))
            for name in cases:
                yield Case.of(
                    name, backbone, found["source"], found[name], ("ham", "spam"), seed, baselines=True
                )


# -- the report


def harm(one: Mapping[str, Any]) -> float:
    """Points that the gate's choice loses beside the source; negative where it wins."""
    which = "balanced" if one["all_classes"] else "accuracy"
    scores = one["scores"]
    return 100 * (scores["source"][which] - scores["auto"][which])


def report(results: list[dict[str, Any]]) -> None:
    by_case: dict[str, list[dict[str, Any]]] = {}
    for one in results:
        by_case.setdefault(one["case"], []).append(one)
    names = list(dict.fromkeys(name for one in results for name in one["scores"]))
    print(f"| target | seeds | {' | '.join(names)} | verdicts | largest harm |")
    print("|---" * (len(names) + 4) + "|")
    for case, found in by_case.items():
        cells_ = []
        for name in names:
            scored = [one["scores"][name] for one in found if name in one["scores"]]
            if not scored:
                cells_.append("")
                continue
            text = f"{statistics.mean(one['balanced'] for one in scored):.3f}"
            if all("auc" in one for one in scored):
                text += f" ({statistics.mean(one['auc'] for one in scored):.2f})"
            cells_.append(text)
        verdicts = [one["method"] or one["verdict"] for one in found]
        told = ", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(verdicts))
        print(f"| {case} | {len(found)} | {' | '.join(cells_)} | {told} | {max(map(harm, found)):.1f} |")
    print("\nBalanced accuracy, the area under the ROC curve in brackets.")
    worst = max(results, key=harm)
    print(f"Largest harm of auto: {harm(worst):.2f} points ({worst['case']}, seed {worst['seed']}).")
    right = sum(harm(one) <= HARMLESS for one in results)
    print(f"Right verdicts: {right} of {len(results)}.")
    closed = [
        (one["scores"]["auto"]["balanced"] - one["scores"]["source"]["balanced"])
        / (one["scores"]["ceiling"]["balanced"] - one["scores"]["source"]["balanced"])
        for one in results
        if one["case"] in ("mono to poly", "poly to mono")
    ]
    if closed:
        print(
            f"Gap closed on the other kind of cell: {statistics.mean(closed):.0%} on average, least {min(closed):.0%}."
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help="solar, corruptions, digits, traps, digit-traps, mails=FILE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="file that every result is kept in; see kept.py")
    arguments = parser.parse_args()
    kept = Kept(arguments.results, ("case", "seed"))
    kinds: dict[str, Callable[[int], Iterator[Case]]] = {
        "solar": solar, "corruptions": corruptions, "digits": digits, "traps": traps, "digit-traps": digit_traps,
    }  # fmt: skip
    for name in arguments.cases:
        kind, _, path = name.partition("=")
        found = mails(arguments.seeds, Path(path)) if kind == "mails" else kinds[kind](arguments.seeds)
        for case in found:
            if not kept.has(case=case.name, seed=case.seed):
                kept.add(case.measure())
    report(kept.rows)
    print(f"\n{kept.told()}")


if __name__ == "__main__":
    main()
