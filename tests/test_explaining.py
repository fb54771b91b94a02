"""Explanations sum up to the difference that they explain, and point at what makes it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from unfreeze import explaining
from unfreeze.bundle.classifier import Classifier
from unfreeze.errors import UnfreezeError
from unfreeze.explaining import draw_heat, explain_image, explain_text
from unfreeze.runtime.labels import Labels


@pytest.mark.parametrize("text", ["claim your prize", "the minister and the storm on Monday"])
def test_the_parts_of_a_text_add_up_to_the_difference_of_the_answers(text_run, monkeypatch, text):
    classifier = text_run.run.model().classifier
    found, integrated = [], explaining._integrated

    def noting(features, given, real, nothing, *, label):
        head = given.head.module()
        with torch.no_grad():
            logits = head(features(torch.stack([real, nothing])))
        margin = logits[:, label] - (logits.sum(1) - logits[:, label]) / (logits.shape[1] - 1)
        parts = integrated(features, given, real, nothing, label=label)
        found.append((float(parts.sum()), float(margin[0] - margin[1])))
        return parts

    monkeypatch.setattr(explaining, "_integrated", noting)
    for label in range(3):
        explain_text(classifier, text, label)
    assert max(abs(wanted) for _, wanted in found) > 1
    for got, wanted in found:
        assert got == pytest.approx(wanted, rel=0.1, abs=0.1)


def test_the_same_picture_has_the_same_explanation(image_run):
    classifier = image_run.run.model().classifier
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    first, again = (explain_image(classifier, pixels, 0) for _ in range(2))
    assert np.array_equal(first, again)
    # Two classes: what speaks for one speaks against the other.
    assert explain_image(classifier, pixels, 1) == pytest.approx(-first, abs=1e-4)


def test_the_words_that_make_the_class_weigh_most_and_the_pieces_make_up_the_text(text_run):
    classifier = text_run.run.model().classifier
    text = "  the claim,\tprize\nand a Monday "
    spam, ham = (
        dict(explain_text(classifier, text, classifier.labels.index(name))) for name in ("spam", "ham")
    )
    assert "".join(explain_text(classifier, text, 0)[place][0] for place in range(len(spam) + 3)).startswith(
        text[:9]
    )
    assert max(spam, key=spam.get) in ("claim,", "prize")
    assert max(ham, key=ham.get) == "Monday"
    assert spam["Monday"] < 0 < spam["prize"]


@pytest.mark.parametrize("text", ["", " ", "word", "a " * 400, "\ud800 prize", "日本語 prize 😀"])
def test_any_text_can_be_explained(text_run, text):
    pieces = explain_text(text_run.run.model().classifier, text, 0)
    assert "".join(piece for piece, _ in pieces) == text
    assert all(-1 <= weight <= 1 for _, weight in pieces)


def test_the_heat_lies_where_the_picture_decides(image_run):
    classifier = image_run.run.model().classifier
    mean = (np.array(classifier.backbone.preprocess.mean) * 255).astype(np.uint8)
    pixels = np.tile(mean, (64, 64, 1))
    # Only a part of the picture has anything in it.
    pixels[:32, :32] = (70, 150, 80)
    heat = explain_image(classifier, pixels, classifier.labels.index("green"))
    assert heat.shape == (64, 64)
    assert np.abs(heat).max() == pytest.approx(1.0)
    assert np.abs(heat[:32, :32]).sum() > 0.75 * np.abs(heat).sum()


def test_the_drawing_is_blue_for_and_orange_against(tmp_path):
    heat = np.array([[1.0, -1.0], [0.0, 0.5]], dtype=np.float32)
    drawn = np.asarray(Image.open(io.BytesIO(draw_heat(heat))))
    assert drawn.shape == (2, 2, 4)
    assert tuple(drawn[0, 0, :3]) == explaining.FOR
    assert tuple(drawn[0, 1, :3]) == explaining.AGAINST
    assert drawn[1, 0, 3] == 0
    assert drawn[0, 0, 3] > drawn[1, 1, 3] > 0


def test_a_head_on_a_depth_below_the_words_cannot_be_explained(text_run, monkeypatch):
    classifier = text_run.run.model().classifier
    opaque = classifier.backbone

    class Opaque:
        name, preprocess, assets = opaque.name, opaque.preprocess, opaque.assets

        def run(self, state, start=0, stop=None):
            return opaque.run(state)

    one = Classifier(Opaque(), classifier.head, Labels(classifier.labels.names))
    with pytest.raises(UnfreezeError, match="does not tell its tokens apart"):
        explain_text(one, "prize", 0)
