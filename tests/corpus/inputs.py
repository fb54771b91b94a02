"""Bad inputs, made by functions of a folder: each writes one and returns its path.

Every case has a name; the same name gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

Maker = Callable[[Path], Path]
CLASSES = ("green", "red")
FORMATS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF"}


def picture(seed: int, kind: str = "png") -> bytes:
    """A small picture that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, FORMATS[kind])
    return out.getvalue()


def photos(folder: Path) -> Path:
    """A sound folder of class folders, eight pictures each."""
    for place, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            (folder / name / f"{number}.png").write_bytes(picture(100 * place + number))
    return folder


def damaged(content: bytes, how: str) -> bytes:
    """``cut 0.3`` keeps that share; ``flip 7`` changes bytes chosen by that seed; ``zero 7`` blanks a stretch."""
    kind, _, number = how.partition(" ")
    if kind == "cut":
        return content[: int(len(content) * float(number))]
    chance = np.random.default_rng(int(number))
    changed = bytearray(content)
    if kind == "flip":
        for place in chance.integers(0, len(changed), max(3, len(changed) // 100)):
            changed[place] ^= int(chance.integers(1, 256))
    else:
        start = int(chance.integers(0, len(changed)))
        stop = min(len(changed), start + len(changed) // 4 + 1)
        changed[start:stop] = bytes(stop - start)
    return bytes(changed)


DAMAGES = (
    *(f"cut {share}" for share in (0.01, 0.1, 0.5, 0.9, 0.99)),
    *(f"flip {seed}" for seed in range(3)),
    *(f"zero {seed}" for seed in range(2)),
)


# -- pictures


def pictures() -> Iterator[tuple[str, Maker]]:
    """A sound folder with one more file that is not."""
    for ending in FORMATS:
        for how in DAMAGES:
            yield f"{ending}, {how}", _with_file(f"bad.{ending}", damaged(picture(7, ending), how))
    for name, content in _strange_pictures().items():
        yield name, _with_file("bad.png", content)
    yield "a pipe", _pipe
    yield "a folder called as a picture", _folder_as_picture
    yield "a link to itself", _link_to_itself
    yield "a link to nothing", _link_to_nothing


def _strange_pictures() -> dict[str, bytes]:
    header = b"\x89PNG\r\n\x1a\n"

    def png(width: int, height: int, *, bits: int = 8, colour: int = 2) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            body = kind + data
            return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

        first = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        return header + first + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escape.txt", "x")
    return {
        "nothing": b"",
        "one byte": b"\x89",
        "a header alone": header,
        "text": b"This is no picture.\n",
        "a web page": b"<!doctype html><html><body>404</body></html>",
        "a drawing in XML": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        "a document": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "an archive": archive.getvalue(),
        "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "a large one": png(60_000, 60_000),
        "the largest one": png(2**31 - 1, 2**31 - 1),
        "no width": png(0, 10),
        "no height": png(10, 0),
        "impossible bits": png(10, 10, bits=7),
        "impossible colours": png(10, 10, colour=9),
        "zeros": bytes(4096),
        "a line break too many": picture(3).replace(b"\r\n", b"\n", 1),
    }


def _with_file(name: str, content: bytes) -> Maker:
    def make(folder: Path) -> Path:
        root = photos(folder / "data")
        (root / "red" / name).write_bytes(content)
        return root

    return make


def _pipe(folder: Path) -> Path:
    root = photos(folder / "data")
    os.mkfifo(root / "red" / "bad.png")
    return root


def _folder_as_picture(folder: Path) -> Path:
    root = photos(folder / "data")
    (root / "red" / "bad.png").mkdir()
    return root


def _link_to_itself(folder: Path) -> Path:
    root = photos(folder / "data")
    (root / "red" / "bad.png").symlink_to("bad.png")
    return root


def _link_to_nothing(folder: Path) -> Path:
    root = photos(folder / "data")
    (root / "red" / "bad.png").symlink_to("gone.png")
    return root


# -- folders


STRANGE_NAMES = (
    "a b", " lead", "trail ", "é", "日本", "🙂", "\u202egnp", "new\nline", "tab\t", "quote\"'", "a;b", "a,b", "=1+1",
    "=HYPERLINK(\"http:x\")", "+1", "-1", "@SUM(1)", "<script>alert(1)</script>", "&amp;", "a" * 120,
    "%00", "$(touch x)", "`id`", "\\", "{{7*7}}", "NaN", "null", "true", "2024-01-01", "001", "1.0", "CON", "‮rtl‬",
    "a\x01b", "\ufeffbom",
)  # fmt: skip


def folders() -> Iterator[tuple[str, Maker]]:
    """Folders that are no data set."""
    yield "nothing at all", _written("data", {})
    yield "files without classes", _written("data", {"a.png": picture(1), "b.png": picture(2)})
    yield "one class", _written("data", {f"red/{number}.png": picture(number) for number in range(9)})
    yield "one picture a class", _written("data", {"red/1.png": picture(1), "green/1.png": picture(2)})
    yield (
        "two pictures a class",
        _written(
            "data", {f"{name}/{number}.png": picture(number) for name in CLASSES for number in range(2)}
        ),
    )
    yield "no pictures", _written("data", {f"{name}/note.doc": b"x" for name in CLASSES})
    yield (
        "pictures and texts",
        _written(
            "data",
            {f"red/{n}.png": picture(n) for n in range(5)} | {f"green/{n}.txt": b"a text" for n in range(5)},
        ),
    )
    yield (
        "train without a class of test",
        _written(
            "data",
            {f"train/{name}/{n}.png": picture(n) for name in CLASSES for n in range(5)}
            | {f"test/blue/{n}.png": picture(50 + n) for n in range(5)},
        ),
    )
    yield (
        "test without train",
        _written("data", {f"test/{name}/{n}.png": picture(n) for name in CLASSES for n in range(5)}),
    )
    yield (
        "an empty train",
        _written(
            "data",
            {"train/red/.keep": b""}
            | {f"test/{name}/{n}.png": picture(n) for name in CLASSES for n in range(5)},
        ),
    )
    yield "empty texts", _written("data", {f"{name}/{n}.txt": b"" for name in CLASSES for n in range(5)})
    yield (
        "texts in another encoding",
        _written(
            "data",
            {
                f"{name}/{n}.txt": f"caf\xe9 {name} {n}".encode("latin-1")
                for name in CLASSES
                for n in range(5)
            },
        ),
    )
    yield (
        "texts of zeros",
        _written("data", {f"{name}/{n}.txt": bytes(99 + n) for name in CLASSES for n in range(5)}),
    )


def strange_names() -> Iterator[tuple[str, Maker]]:
    """Sound folders whose classes and files have names that other programs trip over."""
    for place, name in enumerate(STRANGE_NAMES):
        yield (
            f"named {place}",
            _written(
                "data",
                {f"{name}/{number} {name}.png": picture(number) for number in range(8)}
                | {f"plain/{number}.png": picture(100 + number) for number in range(8)},
            ),
        )


def _written(root: str, files: dict[str, bytes]) -> Maker:
    def make(folder: Path) -> Path:
        (folder / root).mkdir()
        for name, content in files.items():
            path = folder / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / root

    return make


# -- tables


def rows(count: int = 40) -> list[tuple[str, str]]:
    return [(f"a text about {CLASSES[n % 2]} number {n}", CLASSES[n % 2]) for n in range(count)]


def csv_bytes(
    lines: list[tuple[str, ...]], *, header: tuple[str, ...] = ("text", "label"), by: str = ","
) -> bytes:
    return "\n".join(by.join(line) for line in (header, *lines)).encode()


def csv_of(image: Callable[[int], str]) -> bytes:
    """A table of paths to pictures."""
    return csv_bytes([(image(n), label) for n, (_, label) in enumerate(rows())], header=("image", "label"))


def tables() -> Iterator[tuple[str, Maker]]:
    """CSV, TSV and JSONL files with something wrong about them; some can still be read."""
    sound, plain = csv_bytes(rows()), rows()
    found = {
        "nothing.csv": b"",
        "header.csv": b"text,label\n",
        "header without end.csv": b"text,label",
        "line breaks.csv": b"\n\n\n\n",
        "one row.csv": csv_bytes(plain[:1]),
        "one column.csv": b"text\n" + b"\n".join(text.encode() for text, _ in plain),
        "no label.csv": csv_bytes([(text, "") for text, _ in plain]),
        "one label.csv": csv_bytes([(text, "red") for text, _ in plain]),
        "a label each.csv": csv_bytes([(text, f"c{n}") for n, (text, _) in enumerate(plain)]),
        "no text.csv": csv_bytes([("", label) for _, label in plain]),
        "one text.csv": csv_bytes([("the same", label) for _, label in plain]),
        "half the labels.csv": csv_bytes([(text, label if n % 2 else "") for n, (text, label) in enumerate(plain)]),
        "twice a column.csv": csv_bytes([(*row, "x") for row in plain], header=("text", "label", "label")),
        "no names.csv": csv_bytes([(*row, "x") for row in plain], header=("", "", "")),
        "too many cells.csv": sound + b"\na,b,c,d,e,f\n",
        "too few cells.csv": sound + b"\nalone\n",
        "an open quote.csv": sound + b'\n"never closed,red\nmore\n',
        "zeros.csv": bytes(5_000),
        "zeros inside.csv": sound.replace(b"number 3", b"num\x00ber 3"),
        "latin.csv": csv_bytes(plain).replace(b"about", b"caf\xe9"),
        "utf16.csv": sound.decode().encode("utf-16"),
        "utf32.csv": sound.decode().encode("utf-32"),
        "mark.csv": b"\xef\xbb\xbf" + sound,
        "old line ends.csv": sound.replace(b"\n", b"\r"),
        "mixed line ends.csv": sound.replace(b"number 7", b"number 7\r").replace(b"\n", b"\r\n", 9),
        "semicolons.csv": csv_bytes(plain, by=";"),
        "bars.csv": csv_bytes(plain, by="|"),
        "tabs as commas.tsv": sound,
        "numbers.csv": csv_bytes([(text, str(n % 2)) for n, (text, _) in enumerate(plain)]),
        "long number.csv": csv_bytes([(text, "9" * 400 if n % 2 else "1") for n, (text, _) in enumerate(plain)]),
        "dates.csv": csv_bytes([(text, f"2024-01-0{1 + n % 2}") for n, (text, _) in enumerate(plain)]),
        "booleans.csv": csv_bytes([(text, str(bool(n % 2))) for n, (text, _) in enumerate(plain)]),
        "infinities.csv": csv_bytes([(text, ("nan", "inf")[n % 2]) for n, (text, _) in enumerate(plain)]),
        "formulas.csv": csv_bytes([(f"=1+{n}", ("=HYPERLINK(1)", "@x")[n % 2]) for n in range(40)]),
        "a long cell.csv": csv_bytes([("word " * 400_000, "red"), *plain]),
        "a long line.csv": b"x" * 3_000_000,
        "a program.csv": b"\x7fELF" + bytes(range(256)) * 20,
        "a table in a table.csv": gzip.compress(sound),
        "unknown ending.xyz": sound,
        "no ending": sound,
        "a web page.csv": b"<!doctype html><html><body>Sign in</body></html>",
        "paths to nothing.csv": csv_of(lambda n: f"gone/{n}.png"),
        "paths outside.csv": csv_of(lambda n: "../../../../etc/passwd"),
        "paths of the system.csv": csv_of(lambda n: ("/dev/zero", "/proc/self/mem", "/dev/stdin")[n % 3]),
        "addresses.csv": csv_of(lambda n: f"http://127.0.0.1:9/{n}.png"),
        "a bad split.csv": csv_bytes([(*row, "trian") for row in plain], header=("text", "label", "split")),
        "test alone.csv": csv_bytes([(*row, "test") for row in plain], header=("text", "label", "split")),
        "nothing.jsonl": b"",
        "brackets.jsonl": b"[]\n" * 9,
        "numbers.jsonl": b"1\n2\n3\n",
        "no objects.jsonl": b'"a"\nnull\ntrue\n',
        "half a line.jsonl": json_lines(plain)[:-20],
        "no json.jsonl": sound,
        "deep.jsonl": b"[" * 20_000 + b"]" * 20_000,
        "a deep cell.jsonl": json_lines(plain) + b'\n{"text": ' + b"[" * 5_000 + b"]" * 5_000 + b', "label": "red"}',
        "lone surrogates.jsonl": json_lines(plain) + b'\n{"text": "\\ud800", "label": "red"}',
        "a label of surrogates.jsonl": json_lines(
            [(text, "\udc00" if label == "red" else label) for text, label in plain]
        ),
        "keys twice.jsonl": b'{"text": "a", "text": "b", "label": "red"}\n' * 9,
        "other keys.jsonl": b'{"x": "a", "y": "red"}\n{"z": 1}\n' * 9,
        "not a number.jsonl": b'{"text": "a", "label": NaN}\n' * 9,
        "a long number.jsonl": b'{"text": "a", "label": ' + b"9" * 5_000 + b"}\n",
        "lists.jsonl": b'{"text": ["a", "b"], "label": ["red", "green"]}\n' * 9,
        "objects.jsonl": b'{"text": {"a": 1}, "label": {"b": 2}}\n' * 9,
        "an array.json": json.dumps([{"text": text, "label": label} for text, label in plain]).encode(),
    }  # fmt: skip
    for name, content in found.items():
        yield name, _file(name, content)
    for how in DAMAGES:
        yield f"csv, {how}", _file("table.csv", damaged(sound, how))
        yield f"jsonl, {how}", _file("table.jsonl", damaged(json_lines(plain), how))


def json_lines(plain: list[tuple[str, str]]) -> bytes:
    return "\n".join(json.dumps({"text": text, "label": label}) for text, label in plain).encode()


def parquets() -> Iterator[tuple[str, Maker]]:
    """Parquet files with something wrong about them."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    def packed(columns: dict[str, object]) -> bytes:
        out = io.BytesIO()
        parquet.write_table(pa.table(columns), out)
        return out.getvalue()

    texts, labels = zip(*rows(), strict=True)
    sound = packed({"text": list(texts), "label": list(labels)})
    for how in (
        *DAMAGES,
        *(f"flip {seed}" for seed in range(3, 15)),
        *(f"zero {seed}" for seed in range(2, 8)),
    ):
        yield f"parquet, {how}", _file("table.parquet", damaged(sound, how))
    strange = {
        "no rows": packed({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}),
        "no columns": packed({}),
        "nothing but nulls": packed({"text": pa.nulls(9), "label": pa.nulls(9)}),
        "labels in lists": packed({"text": list(texts), "label": [[label] for label in labels]}),
        "labels in structs": packed({"text": list(texts), "label": [{"name": label} for label in labels]}),
        "labels as bytes": packed({"text": list(texts), "label": [label.encode() for label in labels]}),
        "labels as halves": packed({"text": list(texts), "label": [n % 2 + 0.5 for n in range(40)]}),
        "labels as dates": packed({"text": list(texts), "label": pa.array(range(40), pa.timestamp("us"))}),
        "texts as bytes": packed(
            {"text": [b"\xff\xfe" + bytes([n]) for n in range(40)], "label": list(labels)}
        ),
        "pictures of noise": packed({"image": [bytes([n]) * 50 for n in range(40)], "label": list(labels)}),
        "half the pictures": packed(
            {"image": [picture(n) if n % 2 else None for n in range(40)], "label": list(labels)}
        ),
        "pictures as structs": packed(
            {"image": [{"bytes": None, "path": f"gone/{n}.png"} for n in range(40)], "label": list(labels)}
        ),
        "a csv": csv_bytes(rows()),
    }
    for name, content in strange.items():
        yield f"parquet, {name}", _file("table.parquet", content)


def _file(name: str, content: bytes) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def archives() -> Iterator[tuple[str, Maker]]:
    """Archives, which are never opened."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("../../escape.txt", "x")
        file.writestr("red/1.png", picture(1))
    rolled = io.BytesIO()
    with tarfile.open(fileobj=rolled, mode="w:gz") as file:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(entry)
    for name, content in {
        "data.zip": packed.getvalue(),
        "data.tar.gz": rolled.getvalue(),
        "data.tar": gzip.decompress(rolled.getvalue()),
        "data.gz": gzip.compress(csv_bytes(rows())),
        "data.npz": packed.getvalue(),
        "data.7z": b"7z\xbc\xaf\x27\x1c" + bytes(40),
    }.items():
        yield name, _file(name, content)


# -- configuration files


CONFIGS = {
    "nothing": b"",
    "a comment": b"# nothing\n",
    "a word": b"hello\n",
    "a list": b"- strategy\n- full\n",
    "a number": b"3\n",
    "an unknown setting": b"stratgy: full\n",
    "a setting that is a list": b"epochs: [1, 2]\n",
    "a setting that is an object": b"backbone: {a: 1}\n",
    "a word for a number": b"epochs: many\n",
    "a number too large": b"epochs: 1e400\n",
    "not a number": b"lr: .nan\n",
    "infinity": b"lr: .inf\n",
    "less than nothing": b"epochs: -4\n",
    "an unknown strategy": b"strategy: fulll\n",
    "a tab": b"\tstrategy: full\n",
    "an open bracket": b"strategy: [full\n",
    "an open quote": b'strategy: "full\n',
    "twice": b"strategy: full\nstrategy: lora\n",
    "a python object": b"strategy: !!python/object/apply:os.system ['touch escaped']\n",
    "another python object": b"!!python/object/new:os.system ['touch escaped']\n",
    "a name of python": b"strategy: !!python/name:os.system\n",
    "an unknown tag": b"strategy: !full full\n",
    "itself": b"a: &a [*a]\n",
    "laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n".encode() for n in range(8)
    ),
    "deep": b"a: " + b"[" * 3_000 + b"]" * 3_000,
    "bytes": bytes(range(256)),
    "latin": "strategy: café\n".encode("latin-1"),
    "utf16": "strategy: full\n".encode("utf-16"),
    "zeros": bytes(64),
    "two documents": b"strategy: full\n---\nstrategy: lora\n",
    "a binary cell": b"strategy: !!binary aGVsbG8=\n",
    "a date": b"seed: 2024-01-01\n",
    "a yes": b"epochs: yes\n",
    "a key that is a list": b"? [a, b]\n: 1\n",
    "a key that is nothing": b"? \n: 1\n",
    "the data": b"data: elsewhere\n",
    "a folder for a path": b"output_dir: 3\n",
}  # fmt: skip


# -- run folders


def bundles(run: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Changes to a copy of a run folder after which it must not answer, or answer as before."""
    files = ("bundle.json", "model.safetensors", "golden.safetensors")
    for name in files:
        content = (run / name).read_bytes()
        yield f"{name} gone", _drop(name)
        yield f"{name} empty", _put(name, b"")
        yield f"{name} a folder", _folder(name)
        yield f"{name} a pipe", _piped(name)
        yield f"{name} a device", _linked(name, "/dev/zero")
        yield f"{name} a link to the outside", _moved(name)
        for how in DAMAGES[:7]:
            yield f"{name}, {how}", _put(name, damaged(content, how))
    plain = json.loads((run / "bundle.json").read_text(encoding="utf-8"))

    def edited(*path: str, value: object) -> bytes:
        copied = json.loads(json.dumps(plain))
        inner = copied
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return json.dumps(copied).encode()

    for key in plain:
        less = {name: value for name, value in plain.items() if name != key}
        yield f"bundle.json without {key}", _put("bundle.json", json.dumps(less).encode())
        for value in (None, "x", -1, [], {}, "../../../etc/passwd"):
            if plain[key] != value:
                yield f"bundle.json, {key} is {value!r}", _put("bundle.json", edited(key, value=value))
    for path, value in (
        (("preprocess", "mean"), [0.5]),
        (("preprocess", "height"), 10**9),
        (("preprocess", "height"), 20_000),
        (("backbone", "base"), {"source": "timm:test_vit", "weights_hash": "0", "image_size": 24_000}),
        (("preprocess", "kind"), "sound"),
        (("calibration", "temperature"), 0),
        (("calibration", "temperature"), -1.0),
        (("backbone", "weights_hash"), "0" * 64),
        (("backbone", "name"), "__import__('os').system('touch escaped')"),
        (("backbone", "recipe", "architecture"), "resnet18"),
        (("backbone", "recipe", "architecture"), "no_such_network"),
        (("backbone", "recipe", "library"), "os"),
        (("head", "boundaries"), [999]),
        (("head", "kind"), "pickle"),
    ):
        yield f"bundle.json, {'.'.join(path)} is {value!r}", _put("bundle.json", edited(*path, value=value))
    yield "bundle.json deep", _put("bundle.json", b"[" * 20_000 + b"]" * 20_000)
    yield "bundle.json not a number", _put("bundle.json", edited("schema_version", value=float("nan")))


Change = Callable[[Path], None]


def _drop(name: str) -> Change:
    return lambda run: (run / name).unlink()


def _put(name: str, content: bytes) -> Change:
    def change(run: Path) -> None:
        (run / name).write_bytes(content)

    return change


def _piped(name: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return change


def _linked(name: str, target: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink()
        (run / name).symlink_to(target)

    return change


def _moved(name: str) -> Change:
    """The same file, outside of the folder."""

    def change(run: Path) -> None:
        outside = run.parent / "outside"
        (run / name).replace(outside)
        (run / name).symlink_to(outside)

    return change


def _folder(name: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return change
