"""The audit of a data set, as ``unfreeze check`` shows it."""

from __future__ import annotations

from unfreeze.backbones import default_backbone, load_backbone
from unfreeze.config import TrainRequest
from unfreeze.data.audit import audit
from unfreeze.data.findings import Audit
from unfreeze.errors import DataError, RequestError
from unfreeze.executors.processor import available_cores
from unfreeze.progress import Progress, Silent
from unfreeze.runtime.preprocess import TextPreprocess
from unfreeze.runtime.tokenize import TextEncoder
from unfreeze.training.prepare import read_data


def audit_data(request: TrainRequest, *, progress: Progress | None = None) -> Audit:
    """Every row of the data looked at; raises RequestError or DataError when they are no data set."""
    tell = progress or Silent()
    request.check()
    dataset = read_data(request)
    if dataset.modality == "image":
        for flag, value in (("--max-length", request.max_length), ("--backbone", request.backbone)):
            if value is not None:
                raise RequestError(
                    f"{flag} is for counting the lengths of texts, and these are images: leave it out."
                )
    encoder = _encoder(request, tell) if dataset.modality == "text" else None
    total = len(dataset)
    return audit(
        dataset,
        encoder=encoder,
        threads=available_cores(),
        progress=lambda done: tell.count("Rows", done, total),
    )


def refuse_unreadable(found: Audit) -> None:
    """Raise DataError where not one row can be read, as a training would: what is listed is all that there is."""
    if len(found.quarantined) == found.rows:
        first = found.quarantined[0]
        raise DataError(
            f"None of the {found.rows:,} rows of {found.source} can be read, such as {first.name} ({first.reason}): "
            "mend what is listed, or name other data."
        )


def _encoder(request: TrainRequest, progress: Progress) -> TextEncoder | None:
    """The tokenizer of the backbone that would be taken; words are counted where there is none.

    Raises RequestError for a backbone that was named and cannot be had, and for a length that it does not read.
    """
    try:
        name = request.backbone or default_backbone("text")[0]
    except RequestError:
        progress.say("No text backbone is on this disk: lengths are counted in words.")
        return None
    backbone = load_backbone(name, modality="text", max_length=request.max_length)
    assert isinstance(backbone.preprocess, TextPreprocess)
    return TextEncoder(backbone.preprocess, backbone.assets["tokenizer.json"])
