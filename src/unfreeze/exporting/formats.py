"""The formats: how each is written, and how its files are run for the gate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.errors import first_line, missing_extra
from unfreeze.executors.tracing import traced
from unfreeze.exporting.network import Network, dynamic_shapes, example, input_names
from unfreeze.runtime.card import KEY
from unfreeze.runtime.exported import Graph
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.reading import Raw

# What onnxruntime has supported since 2024, and what the dynamo exporter writes without conversion.
OPSET = 20
OUTPUTS = ("logits", "probabilities")
# From raw inputs to probabilities (inputs, classes), in the order of the classifier's labels.
Answers = Callable[[Sequence[Raw]], NDArray[np.float64]]


@dataclass(frozen=True)
class Written:
    """The main file of an export, or its folder, with what wrote it and what a person should know.

    ``use``: how it is loaded, in Markdown, for the card.
    """

    file: Path
    made_with: Mapping[str, str]
    notes: tuple[str, ...] = ()
    use: str = ""


@dataclass(frozen=True)
class Format:
    """``write`` puts the classifier into a folder, ``open`` gives the graph of the file, ``describe`` adds the card.

    ``open`` is given the classifier for the names of its inputs, and for the network below an adapter. ``answer``, of
    formats that another library reads, gives that library's answers to raw inputs with its own preprocessing.
    """

    write: Callable[[Classifier, Path], Written]
    open: Callable[[Path, Classifier], Graph]
    describe: Callable[[Path, str], None]
    answer: Callable[[Path, Classifier], Answers] | None = None


def write_onnx(classifier: Classifier, folder: Path) -> Written:
    """``model.onnx`` by the dynamo exporter; by the older one, named in a note, where that cannot."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise missing_extra("export", "--format onnx") from None
    network, backbone = Network(classifier).eval(), classifier.backbone
    file, names = folder / "model.onnx", list(input_names(backbone))
    inputs, notes = example(backbone), []
    made = {"torch": version("torch"), "onnx": version("onnx"), "opset": str(OPSET), "exporter": "dynamo"}
    try:
        with _quiet():
            program = torch.onnx.export(
                network, inputs, dynamo=True, opset_version=OPSET, input_names=names, output_names=list(OUTPUTS),
                dynamic_shapes=dynamic_shapes(backbone), verbose=False,
            )  # fmt: skip
            assert program is not None
            program.save(str(file), external_data=False)
    except Exception as problem:  # the exporter raises whatever its passes do
        first = first_line(problem, most=160)
        notes.append(f"The dynamo exporter cannot write this network ({first}); the older one did.")
        made["exporter"] = "TorchScript"
        axes = {name: {0: "batch", **({1: "tokens"} if name != "images" else {})} for name in names}
        with _quiet():
            torch.onnx.export(
                network, inputs, str(file), dynamo=False, opset_version=OPSET, input_names=names,
                output_names=list(OUTPUTS), dynamic_axes=axes | {name: {0: "batch"} for name in OUTPUTS},
            )  # fmt: skip
    return Written(file, made, tuple(notes))


def open_onnx(file: Path, classifier: Classifier) -> Graph:
    """The graph in onnxruntime, on the processor."""
    import onnxruntime

    names = input_names(classifier.backbone)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda arrays: tuple(session.run(list(OUTPUTS), {name: arrays[name] for name in names}))


def describe_onnx(file: Path, card: str) -> None:
    """Put the card into the model's own metadata."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    onnx.helper.set_model_props(model, {KEY: card})
    onnx.save(model, str(file))


def write_torchscript(classifier: Classifier, folder: Path) -> Written:
    """``model.pt`` by tracing."""
    network = Network(classifier).eval()
    file = folder / "model.pt"
    with _quiet(), torch.no_grad(), traced(network, example(classifier.backbone)) as trace:
        # To memory first, here and below: PyTorch's own writer ends the process when the disk is full.
        torch.jit.save(trace, content := BytesIO())
    write_atomically(file, content.getvalue())
    note = "TorchScript is deprecated by PyTorch itself: onnx or pt2 will be loadable for longer."
    return Written(file, {"torch": version("torch")}, (note,))


def open_torchscript(file: Path, classifier: Classifier) -> Graph:
    """The graph as PyTorch runs it."""
    with _quiet():
        module = torch.jit.load(str(file))  # type: ignore[no-untyped-call]
    return _through_torch(module, input_names(classifier.backbone))


def write_pt2(classifier: Classifier, folder: Path) -> Written:
    """``model.pt2`` by ``torch.export``."""
    network, backbone = Network(classifier).eval(), classifier.backbone
    file = folder / "model.pt2"
    with _quiet(), torch.no_grad():
        shapes = dict(zip(("h", "mask"), dynamic_shapes(backbone), strict=False))
        program = torch.export.export(network, example(backbone), dynamic_shapes=shapes)
        torch.export.save(program, content := BytesIO())
    write_atomically(file, content.getvalue())
    note = "A pt2 file is code: load only those whose origin you trust."
    return Written(file, {"torch": version("torch")}, (note,))


def open_pt2(file: Path, classifier: Classifier) -> Graph:
    """The program as PyTorch runs it."""
    with _quiet():
        module = torch.export.load(str(file)).module()
    return _through_torch(module, input_names(classifier.backbone))


def write_openvino(classifier: Classifier, folder: Path) -> Written:
    """``model.xml`` and ``model.bin``, from the ONNX graph."""
    try:
        import openvino as ov

        from unfreeze.executors.conversion import core
    except ImportError:
        raise missing_extra("openvino", "--format openvino") from None
    written = write_onnx(classifier, folder)
    file = folder / "model.xml"
    model = core().read_model(written.file)
    ov.save_model(model, file, compress_to_fp16=False)
    written.file.unlink()
    return Written(file, dict(written.made_with) | {"openvino": version("openvino")}, written.notes)


def open_openvino(file: Path, classifier: Classifier) -> Graph:
    """The graph compiled for this processor, in float32 as it was written."""
    from unfreeze.executors.conversion import core

    names = input_names(classifier.backbone)
    compiled = core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = compiled({name: arrays[name] for name in names})
        logits, probabilities = (found[compiled.output(name)] for name in OUTPUTS)
        return logits, probabilities

    return run


def no_card(file: Path, card: str) -> None:
    """The card lies beside: the format has no place for it that its own tools keep."""


def _through_torch(module: Callable[..., Any], names: tuple[str, ...]) -> Graph:
    def run(arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.no_grad():
            logits, probabilities = module(*(torch.from_numpy(arrays[name]) for name in names))
        return logits.numpy(), probabilities.numpy()

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own successors and print their steps; what matters is measured by the gate."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


FORMATS: Mapping[str, Format] = {
    "onnx": Format(write_onnx, open_onnx, describe_onnx),
    "openvino": Format(write_openvino, open_openvino, no_card),
    "pt2": Format(write_pt2, open_pt2, no_card),
    "torchscript": Format(write_torchscript, open_torchscript, no_card),
}
