"""From the bytes of an image file to uint8 RGB, the same in training, prediction and serving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unfreeze.runtime.orientation import QUARTER_TURNS, turn_of, upright
from unfreeze.runtime.preprocess import ImagePreprocess

# Pillow's own limit for a warning, 2**30 bytes of RGB over 4 and 3: beyond it a file is taken for an attack.
MOST_PIXELS = 178_956_970 // 2
# Formats decoded by Pillow and its bundled codecs alone. Left out: those that start other programs (EPS) or
# read other files, those that are decoded before their size can be asked for (ICO, whose directory may say 16 x 16
# of any picture), and those that photographs are never stored in. JPEG includes the stereo MPO of cameras.
FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "WEBP",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
    "AVIF",
    "JPEG2000",
    "TGA",
)
# Values of a picture that are widened at a time.
BAND_VALUES = 2**20
# Formats whose codec decodes at half, a quarter and an eighth of the size.
SCALED = ("JPEG", "MPO")
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Box = tuple[float, float, float, float]


class BadInput(ValueError):  # noqa: N818 - it names the input's state, as Quarantined does
    """An input that cannot be used; the message is a short reason."""


class BadImage(BadInput):
    """The bytes are no image that can be used; the message is a short reason."""


@dataclass(frozen=True)
class Quarantined:
    """A row whose input cannot be used: its name, and why. It is counted, never replaced by another row."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageInfo:
    """What an image file holds: pixels as displayed (after EXIF rotation), Pillow's mode, its format."""

    width: int
    height: int
    mode: str
    format: str


@dataclass(frozen=True)
class _Geometry:
    """``box``: the part of the source that is kept; ``size``: its (width, height) in the result."""

    box: Box
    size: tuple[int, int]


def decode_image(data: bytes, preprocess: ImagePreprocess) -> NDArray[np.uint8]:
    """The image as uint8 RGB (height, width, 3) at the size that ``preprocess`` names.

    EXIF rotation is applied, transparency is laid over white, animations give their first frame, values wider
    than 8 bits are scaled down (see ``to_rgb``). Safe to call from many threads. Raises BadImage.
    """
    return fit_picture(decode_picture(data, preprocess), preprocess)


def decode_picture(data: bytes, preprocess: ImagePreprocess) -> Image.Image:
    """The first half of ``decode_image``: upright, in mode RGB, of a JPEG the scale that ``draft`` allows.

    Raises BadImage.
    """
    image = _open(data)
    try:
        if preprocess.draft and image.format in SCALED:
            image.draft(None, _needed_size(image, preprocess))
        return to_rgb(upright(image))
    except Exception as error:  # Pillow's codecs raise nearly any type on damaged bytes
        raise BadImage(_reason(error)) from error


def fit_picture(picture: Image.Image, preprocess: ImagePreprocess) -> NDArray[np.uint8]:
    """The second half of ``decode_image``: a decoded picture at the size and fit of ``preprocess``. Raises BadImage."""
    try:
        return _fitted(picture, preprocess)
    except Exception as error:  # a resize of extreme sides can lack the memory
        raise BadImage(_reason(error)) from error


def open_picture(data: bytes, *, most: int | None = None) -> Image.Image:
    """The whole picture in mode RGB, upright, for showing it, at most ``most`` pixels wide and high.

    A JPEG is decoded at the smallest of its codec's scales that twice as many pixels come from: a photo of 12 million
    pixels in a quarter of the time. Raises BadImage.
    """
    image = _open(data)
    try:
        if most is not None and image.format in SCALED:
            image.draft(None, (2 * most, 2 * most))
        picture = to_rgb(upright(image))
        if most is not None:
            picture.thumbnail((most, most), Image.Resampling.LANCZOS)
        return picture
    except Exception as error:  # see decode_picture
        raise BadImage(_reason(error)) from error


def inspect_image(data: bytes) -> ImageInfo:
    """Size, mode and format from the header alone; EXIF that stands behind the pixels is not seen. Raises BadImage."""
    return _info(_open(data))


def verify_image(data: bytes) -> ImageInfo:
    """Size, mode and format, after decoding every pixel of the first frame. Raises BadImage."""
    image = _open(data)
    info = _info(image)
    try:
        image.load()
    except Exception as error:  # see decode_picture
        raise BadImage(_reason(error)) from error
    return info


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB.

    16-bit grey is divided by 257, so that its whole range maps to 0..255. Grey of 32 bits or floats: 0..1
    (floats) and 0..65535 (integers) are taken as full ranges, floats in 0..255 stay, anything else is
    stretched from its own minimum to its maximum. Transparent pixels are laid over white.
    Raises ValueError for modes without a conversion.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    given = np.asarray(image)
    floats = image.mode == "F"
    # In bands: in float64 a picture of 89 million pixels would take gigabytes, and a file of 200 bytes can be one.
    rows = max(1, BAND_VALUES // max(1, given.shape[1]))
    bands = [slice(start, start + rows) for start in range(0, len(given), rows)]
    ends = [(float(values.min()), float(values.max())) for values in (_wide(given[band]) for band in bands)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    full_ranges = (1.0, 255.0) if floats else (65535.0,)
    full = next((limit for limit in full_ranges if low >= 0 and high <= limit), None)
    found = np.empty(given.shape, dtype=np.uint8)
    for band in bands:
        values = _wide(given[band])
        if full is None:
            values = (values - low) / (high - low or 1.0)
        found[band] = np.rint(values * (255.0 / (full or 1.0)))
    return found


def _wide(values: NDArray[Any]) -> NDArray[np.float64]:
    """The values as float64, zeros where they are no finite numbers."""
    # A signalling NaN is reported when it is widened.
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("the file is empty")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage("its content is not an image in a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"more than {MOST_PIXELS:,} pixels: taken for a decompression bomb") from None
    except Exception as error:  # see decode_picture
        raise BadImage(_reason(error)) from error
    # Pillow only warns up to twice the limit, and a warning filter would be shared by all threads.
    if image.width * image.height > MOST_PIXELS:
        raise BadImage(
            f"{image.width:,} x {image.height:,} pixels are more than {MOST_PIXELS:,}: "
            "taken for a decompression bomb"
        )
    return image


def _info(image: Image.Image) -> ImageInfo:
    width, height = _displayed_size(image)
    return ImageInfo(width=width, height=height, mode=image.mode, format=image.format or "unknown")


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    quarter = turn_of(image) in QUARTER_TURNS
    return (image.height, image.width) if quarter else (image.width, image.height)


def _needed_size(image: Image.Image, preprocess: ImagePreprocess) -> tuple[int, int]:
    """Smallest (width, height) in the file's own orientation from which the resize still only shrinks."""
    width, height = _displayed_size(image)
    wide, high = _resized_size(width, height, preprocess)
    return (wide, high) if (width, height) == image.size else (high, wide)


def _resized_size(width: int, height: int, preprocess: ImagePreprocess) -> tuple[int, int]:
    """Size (width, height) of the whole picture after the resize, before a crop or padding."""
    wide, high = preprocess.width, preprocess.height
    if preprocess.fit == "squash":
        return wide, high
    if preprocess.fit == "pad":
        scale = min(wide / width, high / height)
        return max(1, round(width * scale)), max(1, round(height * scale))
    # As timm does: the side is rounded down after dividing by the crop share; the longer side follows,
    # rounded down for squares (torchvision's Resize), to the nearest for other shapes (ResizeKeepRatio).
    wide, high = (max(1, math.floor(side / preprocess.crop_fraction)) for side in (wide, high))
    if wide == high:
        if width <= height:
            return wide, wide * height // width
        return wide * width // height, wide
    scale = max(wide / width, high / height)
    return max(wide, round(width * scale)), max(high, round(height * scale))


def _fitted(image: Image.Image, preprocess: ImagePreprocess) -> NDArray[np.uint8]:
    resample = RESAMPLING[preprocess.interpolation]
    size = (preprocess.width, preprocess.height)
    resized = _resized_size(image.width, image.height, preprocess)
    if preprocess.fit == "crop":
        geometry = _centre(image.size, resized, size)
    else:
        geometry = _Geometry(box=(0.0, 0.0, float(image.width), float(image.height)), size=resized)
    done = image.resize(geometry.size, resample=resample, box=geometry.box)
    if geometry.size != size:
        canvas = Image.new("RGB", size, border_colour(preprocess))
        canvas.paste(done, ((size[0] - done.width) // 2, (size[1] - done.height) // 2))
        done = canvas
    return np.array(done, dtype=np.uint8)


def border_colour(preprocess: ImagePreprocess) -> tuple[int, int, int]:
    """The levels of what lies around a picture that does not fill its size: black beside a crop, as timm pads one."""
    if preprocess.fit == "crop":
        return 0, 0, 0
    red, green, blue = (round(value * 255) for value in preprocess.mean)
    return red, green, blue


def _centre(source: tuple[int, int], resized: tuple[int, int], size: tuple[int, int]) -> _Geometry:
    """The central window of ``size`` in the picture after its resize, as far as that reaches, as a box of the source.

    Resizing the box gives the pixels of cropping the resized picture (but for rounding between Pillow's two
    passes, whose order it chooses by size), and a strip of 10 x 100,000 pixels never becomes one of billions.
    """
    kept = min(resized[0], size[0]), min(resized[1], size[1])
    left, top = (round((whole - part) / 2) for whole, part in zip(resized, kept, strict=True))
    across, down = (before / after for before, after in zip(source, resized, strict=True))
    box = (left * across, top * down, (left + kept[0]) * across, (top + kept[1]) * down)
    return _Geometry(box=(box[0], box[1], min(box[2], source[0]), min(box[3], source[1])), size=kept)


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"cannot be decoded: {text[0] if text else type(error).__name__}"
