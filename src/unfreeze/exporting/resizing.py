"""``preprocess.onnx``: from a decoded picture of any size to what the network reads, with Pillow's own arithmetic.

Pillow resizes 8-bit pictures in whole numbers: the filter's weights are computed in double precision, divided by their
sum and rounded to 22 bits after the point; each pass sums products exactly, rounds, and clips to 0..255. The graph does
the same and gives the same bits (Pillow 13, ``Resample.c``, and ``Geometry.c`` for nearest). The decorated functions
are read by onnxscript and become nodes; names in capitals are written into the graph as constants.
"""

import json
import math
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, inliner
from onnxscript import DOUBLE, FLOAT, INT64, UINT8, optimizer, script
from onnxscript import opset20 as op
from onnxscript.values import Opset

from unfreeze.runtime.card import KEY
from unfreeze.runtime.decode import border_colour
from unfreeze.runtime.preprocess import ImagePreprocess

FILE = "preprocess.onnx"
# The first version of the file format that knows opset 20.
IR_VERSION = 9
LOCAL = Opset("unfreeze", 1)
TO_UINT8, TO_FLOAT = int(TensorProto.UINT8), int(TensorProto.FLOAT)
TO_INT64, TO_DOUBLE = int(TensorProto.INT64), int(TensorProto.DOUBLE)
# A plain number would be written in single precision.
PI = onnx.helper.make_tensor("pi", TensorProto.DOUBLE, [], [math.pi])
# Rows of the result that are computed at once. A block reads only its own part of the picture, so neither products
# with zeros nor a copy of the whole picture in double precision are needed.
BLOCK = 16
# What a weight of one becomes: Pillow keeps 32 bits, less 8 for the value and 2 for filters that overshoot.
UNIT = float(1 << 22)
HALF = UNIT / 2


def write_preprocess(preprocess: ImagePreprocess, folder: Path) -> Path:
    """Write ``preprocess.onnx``: uint8 RGB (height, width, 3) of any size in, uint8 at the network's size out."""
    model = _graph(preprocess).to_model_proto(ir_version=IR_VERSION)
    for function in model.functions:
        # onnxscript forgets the functions that are called in a loop's body.
        if all(known.domain != LOCAL.domain for known in function.opset_import):
            function.opset_import.add(domain=LOCAL.domain, version=LOCAL.version)
    model = inliner.inline_local_functions(model)
    # Else ONNX Runtime warns of every constant that it cannot fold itself. An empty sequence is none.
    optimizer.fold_constants(
        model, should_fold=lambda node: None if node.op_type != "SequenceEmpty" else False
    )
    optimizer.remove_unused_nodes(model)
    used = [known for known in model.opset_import if known.domain != LOCAL.domain]
    del model.opset_import[:]
    model.opset_import.extend(used)
    onnx.helper.set_model_props(model, {KEY: json.dumps(preprocess.to_dict())})
    onnx.checker.check_model(model, full_check=True)
    file = folder / FILE
    onnx.save(model, str(file))
    return file


@script(LOCAL, default_opset=op)
def bilinear(x: DOUBLE[...]) -> DOUBLE[...]:
    """The triangle filter."""
    return op.Max(1.0 - op.Abs(x), op.CastLike(0.0, x))


@script(LOCAL, default_opset=op)
def bicubic(x: DOUBLE[...]) -> DOUBLE[...]:
    """Keys' cubic filter with a = -0.5."""
    d = op.Abs(x)
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = (((d - 5.0) * d + 8.0) * d - 4.0) * -0.5
    return op.Where(d < 1.0, near, op.Where(d < 2.0, far, 0.0))


@script(LOCAL, default_opset=op)
def sinc(x: DOUBLE[...]) -> DOUBLE[...]:
    """``sin(pi x) / (pi x)``, and 1 at 0."""
    angle = x * op.Constant(value=PI)
    return op.Where(x == 0.0, 1.0, op.Sin(angle) / angle)


@script(LOCAL, default_opset=op)
def lanczos(x: DOUBLE[...]) -> DOUBLE[...]:
    """The sinc filter under a window of three lobes."""
    return op.Where(op.Abs(x) < 3.0, sinc(x) * sinc(x / 3.0), 0.0)


# The filters of Pillow by name, and how far each reaches.
FILTERS = {"bilinear": (bilinear, 1.0), "bicubic": (bicubic, 2.0), "lanczos": (lanczos, 3.0)}


@script(LOCAL, default_opset=op)
def picked(source: UINT8[...], first: FLOAT, last: FLOAT, size: INT64) -> UINT8[...]:
    """``size`` rows of ``source`` (rows, ...) between ``first`` and ``last``, the nearest to each centre."""
    step = op.Cast(last - first, to=TO_DOUBLE) / op.Cast(size, to=TO_DOUBLE)
    start = op.Cast(first, to=TO_DOUBLE) + step * 0.5
    # Pillow adds step by step, which is not the same as multiplying.
    steps = op.Concat(op.Reshape(start, [1]), op.Expand(step, op.Reshape(size - 1, [1])), axis=0)
    return op.Gather(source, op.Cast(op.CumSum(steps, 0), to=TO_INT64), axis=0)


def _filtered(name: str) -> Any:
    """The function from ``source`` (rows, columns) to its ``size`` rows between ``first`` and ``last``, by a filter."""
    kernel, REACH = FILTERS[name]

    @script(LOCAL, default_opset=op)
    def filtered(source: UINT8[...], first: FLOAT, last: FLOAT, size: INT64) -> UINT8[...]:
        step = op.Cast(last - first, to=TO_DOUBLE) / op.Cast(size, to=TO_DOUBLE)
        stretch = op.Where(step < 1.0, 1.0, step)
        support = REACH * stretch
        start = op.Cast(first, to=TO_DOUBLE)
        rows = op.Shape(source, start=0, end=1)
        parts = op.SequenceEmpty(dtype=TO_UINT8)
        for block in range((size + BLOCK - 1) / BLOCK):
            places = op.Range(block * BLOCK, op.Min(block * BLOCK + BLOCK, size), 1)
            centres = op.Unsqueeze(start + (op.Cast(places, to=TO_DOUBLE) + 0.5) * step, [1])
            # What Pillow cuts off for each row has a weight of zero, so one cut for the block is enough.
            low = op.Max(op.Cast(centres[0] - support + 0.5, to=TO_INT64), 0)
            high = op.Min(op.Cast(centres[-1] + support + 0.5, to=TO_INT64), rows)
            around = op.Cast(op.Range(op.Squeeze(low), op.Squeeze(high), 1), to=TO_DOUBLE)
            weights = kernel((around - centres + 0.5) * (1.0 / stretch))
            scaled = weights / op.ReduceSum(weights, [1]) * UNIT
            whole = op.Cast(op.Cast(scaled + 0.5 * op.Sign(scaled), to=TO_INT64), to=TO_DOUBLE)
            # Whole numbers of 22 and 8 bits: their products and sums are exact in double precision.
            sums = op.MatMul(whole, op.Cast(op.Slice(source, low, high, [0]), to=TO_DOUBLE))
            levels = op.Clip(op.Floor((sums + HALF) / UNIT), 0.0, 255.0)
            parts = op.SequenceInsert(parts, op.Cast(levels, to=TO_UINT8))
        return op.ConcatFromSequence(parts, axis=0)

    return filtered


def _graph(preprocess: ImagePreprocess) -> Any:
    """The whole graph as a function of onnxscript: the steps of ``unfreeze.runtime.decode`` after decoding."""
    passed = picked if preprocess.interpolation == "nearest" else _filtered(preprocess.interpolation)
    geometry = {"squash": _squash, "pad": _pad, "crop": _crop}[preprocess.fit](preprocess)
    HIGH, WIDE = preprocess.height, preprocess.width
    BORDER = onnx.helper.make_tensor("border", TensorProto.INT64, [3], border_colour(preprocess))

    @script(LOCAL, default_opset=op)
    def over_rows(picture: UINT8[...], first: FLOAT, last: FLOAT, size: INT64) -> UINT8[...]:
        done = passed(op.Flatten(picture, axis=1), first, last, size)
        return op.Reshape(done, op.Concat([-1], op.Shape(picture, start=1, end=3), axis=0))

    @script(LOCAL, default_opset=op)
    def over_columns(picture: UINT8[...], first: FLOAT, last: FLOAT, size: INT64) -> UINT8[...]:
        turned = op.Transpose(picture, perm=[1, 0, 2])
        return op.Transpose(over_rows(turned, first, last, size), perm=[1, 0, 2])

    @script(LOCAL, default_opset=op)
    def fitted(
        picture: UINT8["height", "width", 3],  # type: ignore[name-defined]  # noqa: F821
    ) -> UINT8[HIGH, WIDE, 3]:
        height = op.Squeeze(op.Shape(picture, start=0, end=1))
        width = op.Squeeze(op.Shape(picture, start=1, end=2))
        left, top, right, bottom, wide, high = geometry(width, height)
        # Pillow's order of the passes, between which it rounds.
        if op.And(height > high, height - high > (width - wide) * 2):
            done = over_columns(over_rows(picture, top, bottom, high), left, right, wide)
        else:
            done = over_rows(over_columns(picture, left, right, wide), top, bottom, high)
        above, beside = (HIGH - high) / 2, (WIDE - wide) / 2
        before = op.Concat(op.Reshape(above, [1]), op.Reshape(beside, [1]), [0], axis=0)
        pads = op.Concat(before, op.Constant(value_ints=[HIGH, WIDE, 3]) - op.Shape(done) - before, axis=0)
        # Padded with zeros as the difference to the border's colour, so that it is padded with that.
        border = op.Constant(value=BORDER)
        image = op.Cast(op.Pad(op.Cast(done, to=TO_INT64) - border, pads) + border, to=TO_UINT8)
        return image

    return fitted


# Each geometry maps (width, height) to the box (left, top, right, bottom) of the source that is kept, in the single
# precision that Pillow takes, and to its (width, height) in the result.


def _squash(preprocess: ImagePreprocess) -> Any:
    WIDE, HIGH = preprocess.width, preprocess.height

    @script(LOCAL, default_opset=op)
    def squash(width: INT64, height: INT64) -> tuple[FLOAT, FLOAT, FLOAT, FLOAT, INT64, INT64]:
        right, bottom = op.Cast(width, to=TO_FLOAT), op.Cast(height, to=TO_FLOAT)
        wide, high = op.Constant(value_int=WIDE), op.Constant(value_int=HIGH)
        left, top = op.Constant(value_float=0.0), op.Constant(value_float=0.0)
        return left, top, right, bottom, wide, high

    return squash


def _pad(preprocess: ImagePreprocess) -> Any:
    WIDE, HIGH = preprocess.width, preprocess.height

    @script(LOCAL, default_opset=op)
    def pad(width: INT64, height: INT64) -> tuple[FLOAT, FLOAT, FLOAT, FLOAT, INT64, INT64]:
        right, bottom = op.Cast(width, to=TO_FLOAT), op.Cast(height, to=TO_FLOAT)
        across, down = op.Cast(width, to=TO_DOUBLE), op.Cast(height, to=TO_DOUBLE)
        scale = op.Min(WIDE / across, HIGH / down)
        wide = op.Max(op.Cast(op.Round(across * scale), to=TO_INT64), 1)
        high = op.Max(op.Cast(op.Round(down * scale), to=TO_INT64), 1)
        left, top = op.Constant(value_float=0.0), op.Constant(value_float=0.0)
        return left, top, right, bottom, wide, high

    return pad


def _crop(preprocess: ImagePreprocess) -> Any:
    WIDE, HIGH = preprocess.width, preprocess.height
    resized = _resized(preprocess)

    @script(LOCAL, default_opset=op)
    def crop(width: INT64, height: INT64) -> tuple[FLOAT, FLOAT, FLOAT, FLOAT, INT64, INT64]:
        whole_wide, whole_high = resized(width, height)
        wide, high = op.Min(whole_wide, WIDE), op.Min(whole_high, HIGH)
        beside = op.Round(op.Cast(whole_wide - wide, to=TO_DOUBLE) / 2.0)
        above = op.Round(op.Cast(whole_high - high, to=TO_DOUBLE) / 2.0)
        across, down = op.Cast(width, to=TO_DOUBLE), op.Cast(height, to=TO_DOUBLE)
        step, stride = across / op.Cast(whole_wide, to=TO_DOUBLE), down / op.Cast(whole_high, to=TO_DOUBLE)
        left, top = op.Cast(beside * step, to=TO_FLOAT), op.Cast(above * stride, to=TO_FLOAT)
        end, foot = beside + op.Cast(wide, to=TO_DOUBLE), above + op.Cast(high, to=TO_DOUBLE)
        right = op.Cast(op.Min(end * step, across), to=TO_FLOAT)
        bottom = op.Cast(op.Min(foot * stride, down), to=TO_FLOAT)
        return left, top, right, bottom, wide, high

    return crop


def _resized(preprocess: ImagePreprocess) -> Any:
    """The size (width, height) of the whole picture before the crop; both sides follow the shorter one."""
    sides = preprocess.width, preprocess.height
    LONG, TALL = (max(1, math.floor(side / preprocess.crop_fraction)) for side in sides)

    @script(LOCAL, default_opset=op)
    def square(width: INT64, height: INT64) -> tuple[INT64, INT64]:
        wide = op.Where(width <= height, LONG, LONG * width / height)
        high = op.Where(width <= height, LONG * height / width, LONG)
        return wide, high

    @script(LOCAL, default_opset=op)
    def other(width: INT64, height: INT64) -> tuple[INT64, INT64]:
        across, down = op.Cast(width, to=TO_DOUBLE), op.Cast(height, to=TO_DOUBLE)
        scale = op.Max(LONG / across, TALL / down)
        wide = op.Max(op.Cast(op.Round(across * scale), to=TO_INT64), LONG)
        high = op.Max(op.Cast(op.Round(down * scale), to=TO_INT64), TALL)
        return wide, high

    return square if LONG == TALL else other
