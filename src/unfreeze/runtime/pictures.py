"""Pictures that are in memory already: PIL images and arrays."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unfreeze.runtime.decode import BadImage
from unfreeze.runtime.orientation import upright

# What TIFF is needed for: PNG has no such pixels.
TIFF_MODES = ("CMYK", "YCbCr", "LAB", "F", "I")


def encode_losslessly(picture: Image.Image | NDArray[np.uint8]) -> bytes:
    """The picture, upright, as an image file without loss: PNG, or TIFF for pixels that PNG cannot hold.

    Raises BadImage when its pixels cannot be had or written.
    """
    buffer = BytesIO()
    try:
        if isinstance(picture, np.ndarray):
            image = Image.fromarray(
                picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
            )
        else:
            # Turned here, since the new file carries no EXIF.
            image = upright(picture)
        if image.mode in TIFF_MODES:
            image.save(buffer, format="TIFF")
        else:
            image.save(buffer, format="PNG", compress_level=1)
    except Exception as error:  # what was opened and not decoded is read here: codecs raise nearly any type
        raise BadImage(str(error) or type(error).__name__) from error
    return buffer.getvalue()


def picture_problem(item: object, position: int) -> str | None:
    """Why an input is no picture, as a sentence that names its position (from 0); None when it is one."""
    if isinstance(item, Image.Image):
        return None
    if not isinstance(item, np.ndarray):
        return (
            f"Input {position + 1} is a {type(item).__name__}: give paths, PIL images, uint8 arrays or "
            "strings, all of one kind."
        )
    shape_is_known = item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (1, 3, 4))
    if item.dtype != np.uint8 or not shape_is_known or item.size == 0:
        return (
            f"Input {position + 1} is an array of {item.dtype} with shape {item.shape}: "
            "pictures are uint8 of shape (height, width) or (height, width, 1, 3 or 4)."
        )
    return None
