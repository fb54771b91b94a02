"""A picture is displayed as its EXIF says, whatever else that says."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from unfreeze.runtime.decode import decode_image, inspect_image, open_picture, verify_image
from unfreeze.runtime.orientation import ORIENTATION_TAG, upright
from unfreeze.runtime.preprocess import ImagePreprocess

SHORT, SIGNED, FLOAT = 3, 9, 11
ASCII, UNDEFINED = 2, 7
ON_ITS_SIDE = (ORIENTATION_TAG, SHORT, 1, struct.pack("<HH", 6, 0))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I", "F", "I;16")


def stored(exif, kind="JPEG", mode="RGB"):
    file = BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, kind, exif=exif)
    return file.getvalue()


def tags(*entries):
    """EXIF of these (tag, type, count, four bytes), in the order of their tags."""
    packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", 0)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("mode", MODES)
def test_pixels_are_those_of_pillows_own_transposition(orientation, mode):
    picture = Image.fromarray(PIXELS[..., 0].astype(np.uint16)) if mode == "I;16" else None
    picture = picture or Image.fromarray(PIXELS).convert(mode)
    picture.getexif()[ORIENTATION_TAG] = orientation
    found, wanted = upright(picture), ImageOps.exif_transpose(picture)
    assert (found.mode, found.size) == (wanted.mode, wanted.size)
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_once(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    file = stored(exif, kind)
    wanted = ImageOps.exif_transpose(Image.open(BytesIO(file)))
    shown = open_picture(file)
    assert np.array_equal(np.asarray(shown), np.asarray(wanted))
    again = BytesIO()
    shown.save(again, "PNG")
    assert np.array_equal(np.asarray(open_picture(again.getvalue())), np.asarray(wanted))
    assert not shown.info.keys() & {"exif", "xmp"}


ODD = {
    "a unit that is undefined": (0x0128, UNDEFINED, 1, b"\2\0\0\0"),
    "a resolution in letters": (0x011A, ASCII, 4, b"abc\0"),
    "a width that is no whole number": (0x0100, FLOAT, 1, struct.pack("<f", 1.5)),
    "a width below zero": (0x0100, SIGNED, 1, struct.pack("<i", -5)),
}


@pytest.mark.parametrize("tag", ODD.values(), ids=ODD)
def test_an_odd_tag_costs_neither_the_picture_nor_its_orientation(tag):
    file = stored(tags(ON_ITS_SIDE, tag))
    shown = np.rot90(np.asarray(Image.open(BytesIO(file))), -1)
    reads = ImagePreprocess(9, 6, (0.5,) * 3, (0.5,) * 3, draft=False)
    assert np.array_equal(decode_image(file, reads), shown)
    assert np.array_equal(np.asarray(open_picture(file)), shown)
    for info in (inspect_image(file), verify_image(file)):
        assert (info.width, info.height) == (6, 9)


DAMAGED = {
    "no header": b"Exif\0\0garbagegarbage",
    "a header alone": b"Exif\0\0II*\0",
    "an orientation in letters": tags((ORIENTATION_TAG, ASCII, 2, b"6\0\0\0")),
}


@pytest.mark.parametrize("exif", DAMAGED.values(), ids=DAMAGED)
def test_damaged_exif_leaves_the_picture_as_it_is_stored(exif):
    file = stored(exif)
    assert np.array_equal(np.asarray(open_picture(file)), np.asarray(Image.open(BytesIO(file))))
    assert inspect_image(file).width == 9
