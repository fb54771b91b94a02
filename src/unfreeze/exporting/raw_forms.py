"""The user's own pictures in other forms, such as cameras, scanners and web pages make of the same photograph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unfreeze.exporting.formats import Answers
from unfreeze.exporting.gate_rows import GateRows
from unfreeze.exporting.libraries import own_answers
from unfreeze.exporting.parity import Parity
from unfreeze.exporting.pixels import Pixels
from unfreeze.runtime.decode import open_picture
from unfreeze.runtime.orientation import ORIENTATION_TAG

# So many pictures in each form, which is six times as many rows.
PICTURES = 4
# Pictures are shrunk to this before they are written again: a CMYK file of 24 megapixels would prove no more.
LARGEST_SIDE = 512
STRIP = (6, 600)


def _as_file(picture: Image.Image, format: str, **more: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format=format, **more)
    return buffer.getvalue()


def _rotated(picture: Image.Image) -> bytes:
    """Stored a quarter turn to the left, with the tag that says so: it is displayed as before."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    return _as_file(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def _deep(picture: Image.Image) -> bytes:
    """Grey of 16 bits, the only such PNG that Pillow writes; 257 maps the whole range of 8 bits onto it."""
    return _as_file(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "PNG")


FORMS: Mapping[str, Callable[[Image.Image], bytes]] = {
    "EXIF-rotated JPEG": _rotated,
    "CMYK JPEG": lambda picture: _as_file(picture.convert("CMYK"), "JPEG"),
    "16-bit PNG": _deep,
    "palette PNG": lambda picture: _as_file(picture.quantize(16), "PNG"),
    "8 x 8 pixels": lambda picture: _as_file(picture.resize((8, 8)), "PNG"),
    "6 x 600 pixels": lambda picture: _as_file(picture.resize(STRIP), "PNG"),
}


@dataclass(frozen=True, eq=False)
class Reencoded:
    """Pictures as samples in other forms, in memory; the forms of one picture follow each other.

    ``sources``: the picture's name, ``forms``: its form, ``contents``: the new file, each by ``rows``.
    """

    sources: tuple[str, ...]
    forms: tuple[str, ...]
    contents: tuple[bytes, ...]
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """The picture's name, and its form."""
        return f"{self.sources[int(self.rows[row])]} as {self.form(row)}"

    def form(self, row: int) -> str:
        """One of ``FORMS``."""
        return self.forms[int(self.rows[row])]

    def read(self, row: int) -> bytes:
        """The new file."""
        return self.contents[int(self.rows[row])]

    def select(self, rows: NDArray[np.intp]) -> Reencoded:
        """These rows in this order; the files are shared."""
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True)
class RawForms:
    """What was measured on pictures in other forms, with the bounds of the gate.

    ``parity``: of the exported graph, ``pixels``: through ``preprocess.onnx`` as well, where there is one. ``own``: by
    form, how many of the rows are answered alike by the library that reads the export, with its own preprocessing.
    """

    counts: Mapping[str, int]
    parity: Parity
    pixels: Pixels | None
    own: Mapping[str, int]

    def sentence(self, format: str) -> str:
        """What was measured, and where the library alone reads a form otherwise."""
        rows = sum(self.counts.values())
        gap = max(one.gap for one in (self.parity, *([] if self.pixels is None else [self.pixels.parity])))
        told = (
            f"Pictures of them written again ({', '.join(self.counts)}): {round(self.parity.agreement * rows)} of "
            f"{rows} answered alike, largest difference of a probability {gap:.1e}."
        )
        if not self.own:
            return told
        other = [
            f"{form}: {self.own[form]} of {count}"
            for form, count in self.counts.items()
            if self.own[form] < count
        ]
        told += f" {format} with its own preprocessing: {sum(self.own.values())} of {rows}"
        return f"{told} ({', '.join(other)})." if other else f"{told}."

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return {
            "counts": dict(self.counts),
            **self.parity.to_dict(),
            "preprocess": None if self.pixels is None else self.pixels.to_dict(),
            "own_preprocessing": dict(self.own),
        }


def reencode(rows: GateRows) -> tuple[Reencoded, NDArray[np.int32]]:
    """A handful of the rows, evenly spread, each in every form; and their labels."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, PICTURES).astype(np.intp))
    samples = rows.samples.select(chosen)
    sources, forms, contents = [], [], []
    for row in range(len(samples)):
        raw = samples.read(row)
        assert isinstance(raw, bytes)
        picture = open_picture(raw, most=LARGEST_SIDE)
        for form, write in FORMS.items():
            sources.append(samples.name(row))
            forms.append(form)
            contents.append(write(picture))
    made = Reencoded(tuple(sources), tuple(forms), tuple(contents), np.arange(len(contents)))
    return made, np.repeat(rows.label[chosen], len(FORMS))


def count_forms(rows: GateRows) -> dict[str, int]:
    """How many of these rows, which ``reencode`` made, are in each form."""
    return dict(Counter(_forms(rows)))


def count_alike(answer: Answers, rows: GateRows) -> dict[str, int]:
    """By form, how many of these rows a library answers with the trained model's class, from the raw files."""
    same = own_answers(answer, rows).argmax(axis=1) == rows.reference.argmax(axis=1)
    alike = Counter(form for form, hit in zip(_forms(rows), same, strict=True) if hit)
    return {form: alike[form] for form in FORMS}


def _forms(rows: GateRows) -> list[str]:
    assert isinstance(rows.samples, Reencoded)
    return [rows.samples.form(row) for row in range(len(rows))]
