"""How a picture is turned to be displayed: the orientation in its EXIF, read by itself.

Pillow's ``exif_transpose`` writes all other tags anew to leave that one out, and fails at any that has another type
than it expects, as some cameras and editors write.
"""

from __future__ import annotations

from PIL import Image

ORIENTATION_TAG = 0x0112
# What each orientation is undone by (EXIF 2.3, 4.6.4 A); 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
# Where Pillow keeps what a file says of its orientation.
METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


def upright(image: Image.Image) -> Image.Image:
    """A copy of the picture as it is displayed, decoded, without the EXIF and XMP that say how it was stored.

    Its pixels are those of ``ImageOps.exif_transpose``. Raises what the picture's codec does.
    """
    image.load()
    turn = turn_of(image)
    shown = image.copy() if turn is None else image.transpose(turn)
    for name in METADATA:
        shown.info.pop(name, None)
    return shown


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What displays the picture upright; None where it is, or says nothing that can be read.

    EXIF that stands behind the pixels is seen when they are decoded.
    """
    try:
        # That of the base class: the one for PNG decodes the picture to look for EXIF behind its pixels.
        return TURNS.get(Image.Image.getexif(image).get(ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF must not cost a picture that decodes
        return None
