"""Decoding: every kind of file becomes the same uint8 RGB, or a named reason why not."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile

from unfreeze.runtime import decode
from unfreeze.runtime.decode import BadImage, decode_image, inspect_image, open_picture, verify_image
from unfreeze.runtime.preprocess import ImagePreprocess


def preprocess(height: int, width: int, **changes) -> ImagePreprocess:
    values = {"mean": (0.5, 0.25, 0.75), "std": (0.5, 0.5, 0.5), "interpolation": "nearest"}
    return ImagePreprocess(height=height, width=width, **{**values, **changes})


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_their_own_pixels(kind):
    pixels = noise(5, 7)
    out = decode_image(saved(Image.fromarray(pixels), kind), preprocess(5, 7))
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert out.flags.writeable
    np.testing.assert_array_equal(out, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    shown = noise(4, 6)
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown, 1),
        7: shown.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif.tobytes())
    np.testing.assert_array_equal(decode_image(data, preprocess(4, 6)), shown)
    info = inspect_image(data)
    assert (info.width, info.height) == (6, 4)


def test_rotated_jpeg_is_drafted_along_its_own_sides():
    ramp = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (1, 800, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(ramp), "JPEG", exif=exif.tobytes(), quality=95)
    out = decode_image(data, preprocess(400, 32, interpolation="bilinear"))
    # Shown upright, the ramp runs from bright at the left to dark at the right.
    assert out.shape == (400, 32, 3)
    assert out[200, 1, 0] > 230
    assert out[200, -2, 0] < 25


def test_cmyk_becomes_rgb():
    # Cyan 0, magenta 255, yellow 255, black 0: red.
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    out = decode_image(saved(image, "TIFF"), preprocess(16, 16))
    assert out[8, 8].tolist() == [255, 0, 0]
    out = decode_image(saved(image, "JPEG", quality=95), preprocess(16, 16))
    assert np.abs(out[8, 8].astype(int) - [255, 0, 0]).max() <= 4


def test_palette_with_transparency_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    opaque = decode_image(saved(image, "PNG"), preprocess(1, 2))
    assert opaque.tolist() == [[[10, 20, 30], [200, 100, 50]]]
    see_through = decode_image(saved(image, "PNG", transparency=bytes([255, 0])), preprocess(1, 2))
    assert see_through.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_alpha_is_laid_over_white():
    rgba = np.array([[[100, 0, 200, 255], [100, 0, 200, 0], [100, 0, 200, 51]]], dtype=np.uint8)
    out = decode_image(saved(Image.fromarray(rgba), "PNG"), preprocess(1, 3))
    assert out.tolist() == [[[100, 0, 200], [255, 255, 255], [224, 204, 244]]]
    grey = np.array([[[40, 255], [40, 0]]], dtype=np.uint8)
    out = decode_image(saved(Image.fromarray(grey, "LA"), "PNG"), preprocess(1, 2))
    assert out.tolist() == [[[40, 40, 40], [255, 255, 255]]]


def test_colour_key_transparency_is_laid_over_white():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    out = decode_image(saved(image, "PNG", transparency=(4, 5, 6)), preprocess(1, 2))
    assert out.tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_16_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        out = decode_image(saved(Image.fromarray(values), kind), preprocess(1, 4))
        assert out[0, :, 0].tolist() == [0, 100, 200, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 25700, 65535]], dtype=np.int32), [0, 100, 255]),
        (np.array([[-100, 0, 100]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.2, 1.0]], dtype=np.float32), [0, 51, 255]),
        (np.array([[0.0, 51.0, 255.0]], dtype=np.float32), [0, 51, 255]),
        (np.array([[0.0, np.nan, 510.0]], dtype=np.float32), [0, 0, 255]),
        (np.array([[-7.0, -7.0, -7.0]], dtype=np.float32), [0, 0, 0]),
    ],
)
def test_wide_grey_is_scaled_by_its_range(values, expected):
    out = decode_image(saved(Image.fromarray(values), "TIFF"), preprocess(1, 3))
    assert out[0, :, 0].tolist() == expected


def test_grey_and_one_bit_images_become_rgb():
    grey = noise(3, 4, 1)
    np.testing.assert_array_equal(
        decode_image(saved(Image.fromarray(grey), "PNG"), preprocess(3, 4)), np.stack([grey] * 3, axis=-1)
    )
    bits = Image.fromarray(grey > 127)
    out = decode_image(saved(bits, "PNG"), preprocess(3, 4))
    np.testing.assert_array_equal(out[..., 0], np.where(grey > 127, 255, 0))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    out = decode_image(data, preprocess(8, 8))
    assert np.abs(out[4, 4].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_truncated_files_are_bad_images(kind):
    data = saved(Image.fromarray(noise(64, 64)), kind)
    cut = data[: len(data) // 2]
    with pytest.raises(BadImage):
        decode_image(cut, preprocess(8, 8))
    with pytest.raises(BadImage):
        verify_image(cut)


def test_reasons_name_what_is_wrong():
    with pytest.raises(BadImage, match="the file is empty"):
        decode_image(b"", preprocess(8, 8))
    with pytest.raises(BadImage, match="not an image in a known format"):
        decode_image(b"<html>404</html>", preprocess(8, 8))
    data = saved(Image.fromarray(noise(64, 64)), "JPEG")
    with pytest.raises(BadImage, match="truncated"):
        decode_image(data[:-200], preprocess(8, 8))


def test_formats_that_run_other_programs_are_refused():
    with pytest.raises(BadImage, match="not an image"):
        decode_image(saved(Image.new("RGB", (8, 8)), "EPS"), preprocess(8, 8))


def test_an_icon_which_may_hide_a_large_picture_is_no_image_here():
    icon = BytesIO()
    picture = saved(Image.new("L", (3_000, 2_000)), "PNG")
    # One entry that says 16 x 16, and a picture of another size.
    icon.write(struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture)
    for use in (inspect_image, verify_image, open_picture, lambda data: decode_image(data, preprocess(8, 8))):
        with pytest.raises(BadImage, match="not an image in a known format"):
            use(icon.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "JPEG2000"])
def test_looking_at_a_picture_decodes_none_of_it(kind, monkeypatch):
    data = saved(Image.fromarray(noise(30, 40)), kind)
    for owner in {type(Image.open(BytesIO(data))), ImageFile.ImageFile, Image.Image}:
        monkeypatch.setattr(owner, "load", lambda *_: pytest.fail("decoded"))
    info = inspect_image(data)
    assert (info.width, info.height) == (40, 30)


def test_bombs_are_refused_by_their_header(monkeypatch):
    data = saved(Image.new("1", (100, 101)), "PNG")
    monkeypatch.setattr(decode, "MOST_PIXELS", 100 * 101)
    assert verify_image(data).width == 100
    monkeypatch.setattr(decode, "MOST_PIXELS", 100 * 101 - 1)
    for use in (inspect_image, verify_image, lambda d: decode_image(d, preprocess(8, 8))):
        with pytest.raises(BadImage, match="bomb"):
            use(data)


def test_pillows_own_bomb_warning_is_an_error():
    data = saved(Image.new("1", (10_000, 9_000)), "PNG")
    with pytest.raises(BadImage, match="bomb"):
        inspect_image(data)


def test_damaged_bytes_raise_nothing_but_bad_image():
    random = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = bytearray(saved(Image.fromarray(noise(32, 32)), kind))
        for _ in range(40):
            broken = data.copy()
            for position in random.integers(0, len(data), 6):
                broken[position] = random.integers(0, 256)
            try:
                out = decode_image(bytes(broken), preprocess(8, 8))
            except BadImage:
                continue
            assert out.shape == (8, 8, 3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_squash_is_pillows_resize(interpolation):
    image = Image.fromarray(noise(37, 53))
    out = decode_image(saved(image, "PNG"), preprocess(24, 16, interpolation=interpolation))
    expected = image.resize((16, 24), resample=decode.RESAMPLING[interpolation])
    np.testing.assert_array_equal(out, np.asarray(expected))


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (64, 64), (41, 300), (33, 47)])
@pytest.mark.parametrize("fraction", [0.875, 1.0, 0.9])
def test_crop_is_resize_then_centre_crop_as_timm_does(height, width, fraction):
    # Smooth, as photographs are: noise overshoots 0..255 between Pillow's two passes, whose order may differ.
    image = Image.fromarray(noise(height // 8, width // 8)).resize((width, height))
    out = decode_image(
        saved(image, "PNG"), preprocess(32, 32, fit="crop", crop_fraction=fraction, interpolation="bicubic")
    )
    side = int(32 / fraction)
    wide, high = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    resized = image.resize((wide, high), resample=Image.Resampling.BICUBIC)
    left, top = round((wide - 32) / 2), round((high - 32) / 2)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32)))
    assert np.abs(out.astype(int) - expected).max() <= 1


def test_crop_of_a_long_strip_stays_small():
    strip = Image.new("RGB", (1, 60_000), "red")
    out = decode_image(saved(strip, "PNG"), preprocess(64, 64, fit="crop"))
    assert out.shape == (64, 64, 3)
    assert (out == [255, 0, 0]).all()


@pytest.mark.parametrize("fraction", [1.15, 2.0])
def test_a_crop_that_reaches_beyond_the_picture_has_a_black_border(fraction):
    red = saved(Image.new("RGB", (40, 20), "red"), "PNG")
    out = decode_image(red, preprocess(20, 30, fit="crop", crop_fraction=fraction))
    high = int(20 / fraction)
    above = (20 - high) // 2
    assert (out[above : above + high, 15] == [255, 0, 0]).all()
    assert (out[:above] == 0).all()
    assert (out[above + high :] == 0).all()
    # A side of one pixel is not shrunk to none.
    assert decode_image(red, preprocess(1, 1, fit="crop", crop_fraction=fraction)).tolist() == [[[255, 0, 0]]]


def test_pad_keeps_the_shape_on_the_mean_colour():
    out = decode_image(saved(Image.new("RGB", (40, 20), "red"), "PNG"), preprocess(20, 20, fit="pad"))
    assert (out[5:15] == [255, 0, 0]).all()
    assert (out[:5] == [128, 64, 191]).all()
    assert (out[15:] == [128, 64, 191]).all()


def test_draft_decodes_no_smaller_than_the_resize_needs(monkeypatch):
    image = Image.fromarray(noise(256, 512)).resize((512, 256))
    data = saved(image, "JPEG", quality=90)
    seen = []
    fitted = decode._fitted
    monkeypatch.setattr(decode, "_fitted", lambda rgb, p: (seen.append(rgb.size), fitted(rgb, p))[1])
    decode_image(data, preprocess(64, 64))
    decode_image(data, preprocess(65, 64))
    decode_image(data, preprocess(64, 64, fit="crop", crop_fraction=0.5))
    decode_image(data, preprocess(64, 64, fit="pad"))
    decode_image(data, preprocess(64, 64, draft=False))
    assert seen == [(128, 64), (256, 128), (256, 128), (64, 32), (512, 256)]


def test_threads_give_the_same_pixels():
    data = [saved(Image.fromarray(noise(80 + n, 90)), "JPEG") for n in range(24)]
    value = preprocess(32, 32, interpolation="bicubic")
    alone = [decode_image(item, value) for item in data]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda item: decode_image(item, value), data))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_picture_to_show_is_upright_and_whole():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = noise(4, 6)
    shown = open_picture(saved(Image.fromarray(pixels), "PNG", exif=exif.tobytes()))
    assert (shown.mode, shown.size) == ("RGB", (4, 6))
    np.testing.assert_array_equal(np.asarray(shown), np.rot90(pixels, -1))
    with pytest.raises(BadImage, match="empty"):
        open_picture(b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_small_picture_is_decoded_no_larger_than_it_needs_to_be(kind, monkeypatch):
    pixels = np.zeros((480, 960, 3), np.uint8)
    pixels[:240] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    data, decoded, turn = saved(Image.fromarray(pixels), kind, exif=exif.tobytes()), [], decode.upright

    def note(image):
        decoded.append(image.size)
        return turn(image)

    monkeypatch.setattr(decode, "upright", note)
    small = open_picture(data, most=60)
    assert small.size == (30, 60)
    # Turned by a quarter: the upper half stands on the right.
    assert np.asarray(small)[:, 20:].mean() > 190
    assert np.asarray(small)[:, :10].mean() < 10
    # Twice sixty pixels are an eighth of 960, and a quarter of 480.
    assert decoded == [(240, 120) if kind == "JPEG" else (960, 480)]
    assert open_picture(data, most=2000).size == (480, 960)


def test_inspection_says_mode_and_format():
    info = inspect_image(saved(Image.new("L", (9, 5)), "JPEG"))
    assert (info.width, info.height, info.mode, info.format) == (9, 5, "L", "JPEG")


def test_bands_of_a_wide_picture_are_stretched_alike(monkeypatch):
    values = np.random.default_rng(0).normal(0, 900, (40, 7)).astype(np.float32)
    image = Image.fromarray(values)
    whole = np.asarray(decode.to_rgb(image))
    monkeypatch.setattr(decode, "BAND_VALUES", 21)
    assert np.array_equal(np.asarray(decode.to_rgb(image)), whole)
    assert (whole.min(), whole.max()) == (0, 255)


def test_a_small_file_of_many_floats_is_read_in_little_memory():
    tall = Image.new("F", (4, 2_000_000), 0.5)
    tracemalloc.start()
    try:
        decode.to_rgb(tall)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 32 MB as it is given and 8 MB as it is found; one copy in float64 would be 64 MB.
    assert peak < 90_000_000


def test_a_signalling_nan_is_no_number_and_no_warning():
    pixels = np.zeros((4, 4), dtype=np.float32)
    pixels[0, 0] = 1.0
    data = saved(Image.fromarray(pixels), "TIFF").replace(
        struct.pack("<f", 1.0), struct.pack("<I", 0x7FA0_0000)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = decode_image(data, preprocess(4, 4))
    assert not caught
    assert not picture.any()
