"""An exported model that predicts, without torch: onnxruntime, numpy, Pillow and tokenizers are all it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.errors import RequestError, missing_extra
from unfreeze.regular import MOST_ASSET, read_file
from unfreeze.runtime.card import KEY, Card, read_card
from unfreeze.runtime.decode import BadInput, Quarantined
from unfreeze.runtime.pictures import encode_losslessly, picture_problem
from unfreeze.runtime.predictions import Prediction
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.runtime.reading import Arrays, Raw, Reader, told_of_cut

BATCH = 32
TOKENIZER = "tokenizer.json"
# What a graph gives, and what it reads of each modality.
OUTPUTS = ("logits", "probabilities")
INPUTS = {"image": {"images"}, "text": {"ids", "mask"}}
# Sums of probabilities are 1 but for rounding, of a thousand classes in 8-bit numbers too.
ROUNDING = 0.01

# From arrays by input name to logits and probabilities, each (batch, classes).
Graph = Callable[[dict[str, NDArray[Any]]], tuple[NDArray[np.float32], NDArray[np.float32]]]


def load(path: str | Path, *, threads: int | None = None) -> Exported:
    """The model of a ``model.onnx`` that ``unfreeze export`` wrote, or of the folder that holds it.

    ``threads``: how many compute an answer; by default one for each core. Raises RequestError when it is none, or
    onnxruntime is not installed.
    """
    path = Path(path)
    file = path / "model.onnx" if path.is_dir() else path
    if not file.is_file():
        raise RequestError(f"{file} does not exist: give the model.onnx that `unfreeze export` wrote.")
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("export", "An ONNX model") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
    except Exception as problem:  # onnxruntime raises its own types, and RuntimeError for damaged files
        raise RequestError(f"{file} is no ONNX model that can be loaded ({str(problem)[:160]}).") from None
    if text is None:
        raise RequestError(
            f"{file} was not written by `unfreeze export`: it does not say what its outputs mean."
        )
    card = read_card(text, source=str(file))
    _check_graph(session, card, file)
    names = [given.name for given in session.get_inputs()]

    def run(arrays: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        try:
            logits, probabilities = session.run(list(OUTPUTS), {name: arrays[name] for name in names})
        except Exception as problem:  # as above
            raise RequestError(f"{file} cannot compute an answer ({str(problem)[:160]}).") from None
        wanted = len(arrays[names[0]]), len(card.labels)
        if not logits.shape == probabilities.shape == wanted or not _is_distribution(probabilities):
            raise RequestError(_damaged(file, f"its outputs are no probabilities of {wanted[1]} labels"))
        return logits, probabilities

    return Exported(run, card, tokenizer_beside(file))


def tokenizer_beside(file: Path) -> bytes | None:
    """The tokenizer that lies beside a model's file, if there is one."""
    path = file.parent / TOKENIZER
    return read_file(path, most=MOST_ASSET) if path.is_file() else None


def _check_graph(session: Any, card: Card, file: Path) -> None:
    """Raise RequestError where the graph is not the one that its card describes.

    A dimension that the graph leaves open has a name in place of a number.
    """
    inputs = {given.name: given.shape for given in session.get_inputs()}
    outputs = {given.name: given.shape for given in session.get_outputs()}
    if inputs.keys() != INPUTS[card.modality] or not outputs.keys() >= set(OUTPUTS):
        raise RequestError(_damaged(file, f"it reads {', '.join(inputs)} and gives {', '.join(outputs)}"))
    reads = card.reads
    if isinstance(reads, ImagePreprocess) and not _fits(
        inputs["images"], (None, reads.height, reads.width, 3)
    ):
        raise RequestError(_damaged(file, f"its card says {reads.height} x {reads.width} pixels"))
    for name in OUTPUTS:
        if not _fits(outputs[name], (None, len(card.labels))):
            raise RequestError(
                _damaged(file, f"it has {len(card.labels)} labels for {name} of {outputs[name]}")
            )


def _fits(found: Sequence[int | str | None], wanted: tuple[int | None, ...]) -> bool:
    """Whether a shape can be the one that is wanted; None in ``wanted`` stands for any size."""
    return len(found) == len(wanted) and all(
        size is None or not isinstance(there, int) or there == size
        for there, size in zip(found, wanted, strict=True)
    )


def _is_distribution(probabilities: NDArray[np.float32]) -> bool:
    """Whether each row has values from 0 to 1 with the sum 1; NaN has not."""
    sums = probabilities.sum(axis=1)
    inside = (probabilities >= 0) & (probabilities <= 1 + ROUNDING)
    return bool(inside.all() and (np.abs(sums - 1) <= ROUNDING).all())


def _damaged(file: Path, how: str) -> str:
    return f"{file} contradicts its card: {how}. It was changed after it was written: export the run again."


class Exported:
    """Predicts classes of raw inputs through an exported graph; ``card`` says what it is.

    Raises RequestError when it reads texts and its tokenizer is missing or another one.
    """

    def __init__(self, graph: Graph, card: Card, tokenizer: bytes | None) -> None:
        self.card = card
        self.graph = graph
        if card.modality == "text" and tokenizer is None:
            raise RequestError(f"The model reads texts, and {TOKENIZER} is not beside it: copy it there.")
        self._reader = Reader(card.reads, tokenizer)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names; column i of every array of probabilities belongs to name i."""
        return self.card.labels

    @property
    def cut(self) -> int:
        """How many texts so far were longer than what is read of each."""
        return self._reader.cut

    def predict(self, inputs: Any, *, top_k: int = 1, batch_size: int = BATCH) -> list[Prediction]:
        """One prediction for each input: paths, bytes, PIL images or uint8 arrays, or strings for a text model."""
        return list(self.iterate(self._named(inputs), top_k=top_k, batch_size=batch_size))

    def predict_proba(self, inputs: Any, *, batch_size: int = BATCH) -> NDArray[np.float32]:
        """Calibrated probabilities (inputs, classes). Raises RequestError when an input cannot be read."""
        found = []
        for name, raw in self._named(inputs):
            prepared = self._prepared(raw)
            if isinstance(prepared, str):
                raise RequestError(f"{name}: {prepared.rstrip('.')}.")
            found.append(prepared)
        parts = [self.run(found[start : start + batch_size])[1] for start in range(0, len(found), batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), dtype=np.float32)

    def iterate(
        self,
        rows: Iterable[tuple[str, Raw | Exception | Quarantined]],
        *,
        top_k: int = 1,
        batch_size: int = BATCH,
    ) -> Iterator[Prediction]:
        """Predictions of named raw inputs in their order; one that cannot be read has an error and no label."""
        waiting: list[tuple[str, NDArray[Any] | str]] = []
        for name, raw in rows:
            waiting.append((name, self._prepared(raw)))
            if len(waiting) == batch_size:
                yield from self._answer(waiting, top_k)
                waiting = []
        yield from self._answer(waiting, top_k)

    def prepare(self, raw: Raw) -> NDArray[Any]:
        """What the graph reads of one input: uint8 (height, width, 3), or token ids (tokens,). Raises BadInput."""
        return self._reader.prepare(raw)

    def run(self, prepared: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits and calibrated probabilities, each (inputs, classes), of one batch."""
        return self.graph(self.batch(prepared))

    def batch(self, prepared: Sequence[NDArray[Any]]) -> Arrays:
        """The arrays that the graph reads, by name."""
        return self._reader.batch(prepared)

    def notes(self, rows: int) -> tuple[str, ...]:
        """What is to be known of the answers given so far, to so many rows, as sentences."""
        return told_of_cut(self.card.reads, self.cut, rows)

    def _named(self, inputs: Any) -> Iterator[tuple[str, Raw | Exception]]:
        """Each input, or the only one, with its name: its raw form, or why it has none."""
        single = isinstance(inputs, str | bytes | np.ndarray) or not isinstance(inputs, Iterable)
        for position, item in enumerate([inputs] if single else inputs):
            name = str(item) if isinstance(item, str | Path) else f"item {position + 1}"
            yield name, self._raw(item, position)

    def _raw(self, item: Any, position: int) -> Raw | Exception:
        if self.card.modality == "text":
            return item if isinstance(item, str) else TypeError("this model reads texts: give strings")
        if isinstance(item, bytes):
            return item
        try:
            if isinstance(item, str | Path):
                return read_file(Path(item))
            if problem := picture_problem(item, position):
                return TypeError(problem)
            return encode_losslessly(item)
        except (OSError, ValueError) as problem:  # a path with a null byte is a ValueError, as BadImage is
            return problem

    def _prepared(self, raw: Raw | Exception | Quarantined) -> NDArray[Any] | str:
        """What the graph reads, or why it cannot."""
        if isinstance(raw, Quarantined):
            return raw.reason
        if isinstance(raw, Exception):
            return f"cannot be read: {getattr(raw, 'strerror', None) or raw}"
        try:
            return self.prepare(raw)
        except BadInput as problem:
            return str(problem)

    def _answer(self, rows: list[tuple[str, NDArray[Any] | str]], top_k: int) -> Iterator[Prediction]:
        readable = [value for _, value in rows if not isinstance(value, str)]
        found = iter(self.run(readable)[1]) if readable else iter(())
        for name, value in rows:
            if isinstance(value, str):
                yield Prediction.unread(name, value)
                continue
            yield Prediction.of(name, next(found), self.labels, threshold=self.card.threshold, top_k=top_k)
