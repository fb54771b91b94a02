"""Sound inputs to begin with; the corpus holds what was found beside them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np

TEXTS = [(f"a text about the prize, number {n}", "ham" if n % 2 else "spam") for n in range(24)]


def seeds_of(kind: str, runs: dict[str, Path]) -> list[bytes]:
    """The sound inputs of a target; ``runs`` are looked at for those that change one."""
    if kind == "bundle":
        return _bundles(runs)
    return {
        "csv": _csv,
        "tsv": lambda: [text.replace(b",", b"\t") for text in _csv()],
        "jsonl": _jsonl,
        "parquet": _parquet,
        "config": _configs,
        "image": _images,
        "http": _requests,
    }[kind]()


def _csv() -> list[bytes]:
    plain = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in TEXTS)
    parts = "text,label,split,group\n" + "".join(
        f"text {n},{label},{'test' if n % 4 == 0 else 'train'},g{n % 6}\n"
        for n, (_, label) in enumerate(TEXTS)
    )
    paths = "image;class\r\n" + "".join(f"{label}/{n}.png;{label}\r\n" for n, (_, label) in enumerate(TEXTS))
    return [plain.encode(), parts.encode(), paths.encode()]


def _jsonl() -> list[bytes]:
    records = [{"text": text, "label": label, "score": n / 2} for n, (text, label) in enumerate(TEXTS)]
    numbers = [{"text": text, "label": n % 2, "split": "train"} for n, (text, _) in enumerate(TEXTS)]
    return ["\n".join(map(json.dumps, rows)).encode() for rows in (records, numbers)]


def _parquet() -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    texts, labels = zip(*TEXTS, strict=True)
    found = []
    for columns in (
        {"text": list(texts), "label": list(labels)},
        {
            "text": list(texts),
            "label": pa.array(labels).dictionary_encode(),
            "group": [n % 5 for n in range(24)],
        },
        {"image": [{"bytes": _images()[0], "path": None}] * 24, "label": [n % 2 for n in range(24)]},
    ):
        out = io.BytesIO()
        parquet.write_table(pa.table(columns), out)
        found.append(out.getvalue())
    return found


def _configs() -> list[bytes]:
    from unfreeze.config import Resolved, write_config

    resolved = write_config(
        (
            Resolved("strategy", "lora", "user", "said"),
            Resolved("rank", 8, "default", "a"),
            Resolved("seed", 3, "user", "said"),
        )
    )
    plain = "strategy: lora\nrank: 8\nlr: 1e-4\nepochs: 3\nval: 0.2\nexamples: false\n"
    sizes = "store_budget: 8GB\nstrategy: auto\ntime_limit: 10m\n"
    return [plain.encode(), resolved.encode(), sizes.encode()]


def _images() -> list[bytes]:
    from PIL import Image

    chance = np.random.default_rng(0)
    colours = Image.fromarray(chance.integers(0, 256, (16, 20, 3), dtype=np.uint8))
    clear = Image.fromarray(chance.integers(0, 256, (9, 7, 4), dtype=np.uint8))
    wide = Image.fromarray(chance.integers(0, 65_536, (8, 8), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    made = [
        (colours, "PNG", {}), (colours, "JPEG", {"exif": exif}), (colours, "WEBP", {"exif": exif}), (clear, "PNG",
        {}),
        (clear, "GIF", {}), (colours, "BMP", {}), (wide, "PNG", {}), (wide, "TIFF", {}), (clear, "TIFF",
        {"compression": "jpeg"}),
        (colours.convert("CMYK"), "JPEG", {"progressive": True}), (colours, "TIFF", {"compression": "tiff_lzw"}),
        (colours.quantize(7), "PNG", {"transparency": 3}), (colours, "PPM", {}), (colours, "TGA",
        {"compression": "tga_rle"}),
        (colours, "JPEG2000", {}), (colours, "AVIF", {}), (clear, "WEBP", {"lossless": True}),
        (colours.convert("F"), "TIFF", {}), (colours.convert("1"), "TIFF", {"compression": "group4"}),
        (colours, "GIF", {"save_all": True, "append_images": [colours.rotate(90, expand=True)]}),
        (colours, "PNG", {"save_all": True, "append_images": [colours.transpose(Image.Transpose.ROTATE_180)],
        "exif": exif}),
    ]  # fmt: skip
    found = []
    for image, kind, options in made:
        out = io.BytesIO()
        if options.get("compression") == "jpeg":
            image = image.convert("RGB")
        image.save(out, kind, **options)
        found.append(out.getvalue())
    return found


def _bundles(runs: dict[str, Path]) -> list[bytes]:
    found = []
    for name, run in runs.items():
        for file in sorted(path for path in run.rglob("*") if path.is_file()):
            where = f"{name} {file.relative_to(run).as_posix()}"
            content = file.read_bytes()
            if file.suffix == ".json":
                found.append(f"{where} hashed\n".encode() + content)
                continue
            header = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip()
            found.append(f"{where} header\n".encode() + header)
            found.append(f"{where} patch\n[[{len(header) + 20}, 255], [{len(header) + 31}, 127]]".encode())
            if len(content) < 4_000:
                found.append(f"{where} as-is\n".encode() + content)
                found.append(f"{where} hashed\n".encode() + content)
    return found


def _requests() -> list[bytes]:
    image = _images()[0]
    encoded = base64.b64encode(image).decode()
    texts = json.dumps({"texts": ["claim your prize", "the minister"], "top_k": 2}).encode()
    images = json.dumps({"images": [encoded]}).encode()
    several = json.dumps({"texts": ["claim"], "tasks": ["mails"], "top_k": 1}).encode()
    form = (
        b'--b\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\ncontent-type: image/png\r\n\r\n'
        + image
        + b'\r\n--b\r\ncontent-disposition: form-data; name="top_k"\r\n\r\n2\r\n--b--\r\n'
    )
    lines = b'--b\r\ncontent-disposition: form-data; name="texts"\r\n\r\nclaim your prize\r\n--b--\r\n'
    json_kind, form_kind = b"application/json", b"multipart/form-data; boundary=b"
    found = [
        b"POST /v1/predict " + json_kind + b"\n" + several,
        b"PUT /v1/tasks/again " + json_kind + b'\n{"run": "mails"}',
        b"DELETE /v1/tasks/again \n",
        b"GET /v1/tasks \n",
        b"GET /metrics \n",
    ]
    for what in (b"predict", b"explain", b"nearest"):
        found += [
            b"POST /v1/tasks/mails/" + what + b" " + json_kind + b"\n" + texts,
            b"POST /v1/tasks/photos/" + what + b" " + json_kind + b"\n" + images,
            b"POST /v1/tasks/photos/" + what + b" " + form_kind + b"\n" + form,
            b"POST /v1/tasks/mails/" + what + b" " + form_kind + b"\n" + lines,
        ]
    return found
