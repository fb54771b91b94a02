"""Inputs made of others: bytes that are cut, spliced and swapped, and trees whose leaves are exchanged for odd ones.

Everything chance decides is asked of a ``random.Random``, so that Hypothesis can draw, shrink and repeat it, and a
mutator of libFuzzer can be given a seed.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

Mutator = Callable[[bytes, Random], bytes]

# What parsers of numbers, dates, names and paths trip over.
ODD = (
    None, True, False, 0, -1, 1, 2, 0.5, 1e-320, 1e308, -1e308, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400,
    float("nan"), float("inf"), float("-inf"), "", " ", "x", "NaN", "null", "true", "1.0", "01", "\0", "a\0b",
    "\ud800",
    "é", "日本", "x" * 300, "../x", "/", ".", "2024-13-45", "[", "{", [], {}, [[]], [None], [1, "a"], {"": 0},
    {"a": {}},
    {"bytes": None, "path": None}, {"value": 1, "origin": "user"},
)  # fmt: skip
NUMBERS = (
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\1",
)
TOKENS = {
    "csv": (b",", b'"', b'""', b"\n", b"\r", b"\r\n", b";", b"\t", b"\0", b"\xef\xbb\xbf", b"\xff", b"text", b"label",
            b"split", b"train", b"test", b"val", b"group", b"image", b"a.png", b"NA", b"nan", b"1e999", b"01",
            b"True"),
    "jsonl": (b"{", b"}", b"[", b"]", b":", b",", b"\n", b'"', b"\\", b"\\ud800", b"null", b"NaN", b"Infinity",
              b"1e999",
              b"-0", b"9" * 40, b"true", b'"text"', b'"label"', b'"split"', b"\xef\xbb\xbf", b"[" * 900 + b"]" * 900),
    "parquet": (*NUMBERS, b"PAR1", b"huggingface", b"label", b"text", b"\x15\x00", b"\x19\x1c"),
    "config": (b": ", b"- ", b"\n", b"  ", b"&a ", b"*a", b"!!int ", b"!!float ", b"!!bool ", b"!!timestamp ",
               b"!!set ",
               b"!!binary ", b"!!omap ", b"!!pairs ", b"!!null ", b"!!str ", b"!!python/name:os.system", b"<<: ",
               b"? ",
               b"|\n", b">\n", b"---\n", b"...\n", b"%YAML 9.9\n", b"0o7", b"0x", b"1_0", b"1:60", b"2024-01-01",
               b"2024-13-45", b".nan", b".inf", b"value", b"origin", b"user", b"lr", b"epochs", b"strategy",
               b"store_budget",
               b"time_limit", b"val", b"test", b"9" * 400, b"GB", b"{", b"}", b"[", b"]", b"\t", b"\x85", b"\xff",
               b"~"),
    "image": (*NUMBERS, b"IHDR", b"IDAT", b"IEND", b"tRNS", b"PLTE", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"iCCP",
              b"zTXt",
              b"\xff\xd8", b"\xff\xd9", b"\xff\xe1", b"Exif\0\0", b"MM\0*", b"II*\0", b"GIF89a", b"RIFF", b"WEBP",
              b"VP8X",
              b"BM", b"P6\n", b"P7\n", b"Pf\n", b"\0\0\1\0", b"ftypavif", b"\xff\x4f\xff\x51", b"\x12\x01",
              b"65536 65536"),
    "bundle": (b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b'"', b"[", b"]", b"{", b"}", b",", b":", b"..",
               b"\\u0000",
               b"F32", b"F16", b"I64", b"BOOL", b'"shape"', b'"data_offsets"', b'"dtype"', b"__metadata__"),
    "http": (b'"texts"', b'"images"', b'"tasks"', b'"top_k"', b'"run"', b"--b", b"--b--", b"\r\n", b'name="files"',
             b'filename="a"', b"; charset=idna", b"; boundary=b", b"data:image/png;base64,", b"==", b"\\ud800",
             b"\xff",
             b"/v1/predict", b"/explain", b"/nearest", b"/report", b"%00", b"%2e%2e", b"application/json",
             b"multipart/form-data; boundary=b", b"content-transfer-encoding: base64", b"filename*=utf-8''%ff"),
}  # fmt: skip
TOKENS["tsv"] = TOKENS["csv"]
ADDRESSED = ("bundle", "http")
MOST_BYTES = 200_000


def mutated(data: bytes, chance: Random, *, kind: str, others: Sequence[bytes]) -> bytes:
    """The input after one to four changes of the kinds that suit its target; ``others`` are there to splice from."""
    first, line_end, rest = data.partition(b"\n")
    if kind in ADDRESSED and chance.randint(0, 7):
        # Its first line says where the rest goes: changed, it would go nowhere most of the time.
        others = [other.partition(b"\n")[2] for other in others]
        return first + line_end + _changed(rest, chance, kind=kind, others=others)
    return _changed(data, chance, kind=kind, others=others)


def _changed(data: bytes, chance: Random, *, kind: str, others: Sequence[bytes]) -> bytes:
    changes: list[Mutator] = [
        _flip,
        _insert_token(kind),
        _cut,
        _double,
        _splice(others),
        _end_early,
        _swap_words,
    ]
    if kind in TREES:
        changes += [TREES[kind]] * 6
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(changes)(data, chance)
    return data[:MOST_BYTES]


def _place(data: bytes, chance: Random) -> int:
    return chance.randint(0, len(data))


def _stretch(data: bytes, chance: Random) -> tuple[int, int]:
    start = _place(data, chance)
    return start, min(len(data), start + chance.choice((1, 2, 4, 16, 64, 4096)))


def _flip(data: bytes, chance: Random) -> bytes:
    if not data:
        return data
    place, changed = chance.randint(0, len(data) - 1), bytearray(data)
    changed[place] = chance.choice(
        (changed[place] ^ 1 << chance.randint(0, 7), 0, 255, chance.randint(0, 255))
    )
    return bytes(changed)


def _insert_token(kind: str) -> Mutator:
    def insert(data: bytes, chance: Random) -> bytes:
        token, place = chance.choice(TOKENS[kind]), _place(data, chance)
        # In place of what stood there, or pushing it on.
        return data[:place] + token + data[place + chance.choice((0, len(token))) :]

    return insert


def _cut(data: bytes, chance: Random) -> bytes:
    start, stop = _stretch(data, chance)
    return data[:start] + data[stop:]


def _double(data: bytes, chance: Random) -> bytes:
    start, stop = _stretch(data, chance)
    return data[:stop] + data[start:stop] * chance.choice((1, 2, 50)) + data[stop:]


def _splice(others: Sequence[bytes]) -> Mutator:
    def splice(data: bytes, chance: Random) -> bytes:
        other = chance.choice(others)
        return data[: _place(data, chance)] + other[_place(other, chance) :]

    return splice


def _end_early(data: bytes, chance: Random) -> bytes:
    return data[: _place(data, chance)]


def _swap_words(data: bytes, chance: Random) -> bytes:
    lines = data.split(b"\n")
    first, second = (chance.randint(0, len(lines) - 1) for _ in range(2))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


# -- trees


def odd_tree(value: object, chance: Random) -> object:
    """The same JSON with one node exchanged, dropped, doubled or wrapped."""
    while isinstance(value, dict | list) and value and chance.randint(0, 3):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        changed = dict(value) if isinstance(value, dict) else list(value)
        how = chance.choice(("into", "into", "into", "into", "drop", "rename"))
        if how == "drop":
            del changed[key]
        elif how == "rename" and isinstance(changed, dict):
            changed[str(chance.choice(ODD))] = changed.pop(key)
        else:
            changed[key] = odd_tree(value[key], chance)
        return changed
    return chance.choice((*ODD, [value], {"x": value}, str(value)))


def _json_text(data: bytes, chance: Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return json.dumps(odd_tree(value, chance)).encode()


def _json_line(data: bytes, chance: Random) -> bytes:
    lines = data.split(b"\n")
    place = chance.randint(0, len(lines) - 1)
    lines[place] = _json_text(lines[place], chance)
    return b"\n".join(lines)


def _csv_cells(data: bytes, chance: Random) -> bytes:
    """One column's cells, or one cell, become odd."""
    rows = [line.split(b",") for line in data.split(b"\n")]
    column = chance.randint(0, max(map(len, rows)) - 1)
    values = [str(chance.choice(ODD)).encode("utf-8", errors="replace") for _ in range(2)]
    chosen = range(len(rows)) if chance.randint(0, 1) else [chance.randint(0, len(rows) - 1)]
    for place in chosen:
        if column < len(rows[place]):
            rows[place][column] = values[place % 2]
    return b"\n".join(b",".join(cells) for cells in rows)


def _yaml_values(data: bytes, chance: Random) -> bytes:
    """Names and values of settings, as YAML spells them."""
    import yaml

    from unfreeze.config import SETTINGS

    name = chance.choice(sorted(SETTINGS))
    value = chance.choice(ODD)
    if chance.randint(0, 2):
        token = chance.choice(TOKENS["config"]) + chance.choice(
            (b"", b"x", b"1", b"2024-01-01", *TOKENS["config"])
        )
        return data + b"\n" + name.encode() + b": " + token + b"\n"
    return data + b"\n" + yaml.safe_dump({name: value}, allow_unicode=False).encode("utf-8", errors="replace")


def _parquet_columns(data: bytes, chance: Random) -> bytes:
    """A new file: the same rows with columns of other types, names and metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = 24
    names = [
        chance.choice(("text", "label", "split", "image", "g", "", "a.b", "text", "é")) for _ in range(3)
    ]
    arrays = [_odd_array(pa, chance, rows) for _ in names]
    metadata = {"huggingface": json.dumps(odd_tree(FEATURES, chance))} if chance.randint(0, 2) == 0 else None
    try:
        fields = [pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))
        out = io.BytesIO()
        parquet.write_table(
            table,
            out,
            row_group_size=chance.choice((1, 7, 24)),
            compression=chance.choice(("none", "snappy", "zstd")),
        )
    except (pa.ArrowException, TypeError, UnicodeError):
        return data
    return out.getvalue()


FEATURES = {
    "info": {
        "features": {"label": {"names": ["ham", "spam"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    }
}


def _odd_array(pa, chance: Random, rows: int):
    import datetime
    import decimal

    makers = (
        lambda n: f"a longer text about number {n}", lambda n: "ab"[n % 2], lambda n: n % 2, lambda n: float(n % 2),
        lambda n: (n % 2) + 0.5, lambda n: float("inf") if n % 2 else 1.0, lambda n: 1e300 if n % 2 else 1.0,
        lambda n: float("nan"), lambda n: bool(n % 2), lambda n: None, lambda n: bytes([n]) * 3, lambda n: [n % 2],
        lambda n: {"bytes": b"x", "path": None}, lambda n: {"bytes": None, "path": "a.png"}, lambda n: {"a": n % 2},
        lambda n: datetime.date(2024, 1, 1 + n % 2), lambda n: datetime.datetime(2024, 1, 1 + n % 2),
        lambda n: datetime.timedelta(days=n % 2), lambda n: datetime.time(n % 2), lambda n: decimal.Decimal(n % 2),
        lambda n: f"{n}.png", lambda n: "train" if n % 3 else "test", lambda n: "", lambda n: -1,
        lambda n: 2**62 + n % 2,
    )  # fmt: skip
    maker = chance.choice(makers)
    array = pa.array([maker(n) for n in range(rows)])
    if chance.randint(0, 3) == 0:
        kinds = (
            pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3),
            pa.float16(),
            pa.float32(), pa.uint64(), pa.int8(), pa.decimal128(38, 2), pa.timestamp("ns", "Mars/Olympus"),
            pa.date64(),
            pa.duration("ns"), pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.int64()),
            pa.bool_(),
        )  # fmt: skip
        try:
            array = array.cast(chance.choice(kinds), safe=False)
        except (pa.ArrowException, TypeError):
            return array
    return array


def _png_chunks(data: bytes, chance: Random) -> bytes:
    """One chunk of a PNG exchanged for another one, with a sum that is right."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return data
    chosen = chance.randint(0, len(chunks) - 1)
    name, content = chunks[chosen]
    extra = (
        (b"IHDR", struct.pack(">IIBBBBB", chance.choice((1, 0, 20, 2**31 - 1)), chance.choice((1, 16, 9000)),
                              chance.choice((1, 2, 4, 8, 16)), chance.choice((0, 2, 3, 4, 6)), 0, 0,
                              chance.randint(0, 1))),
        (b"tRNS", bytes(chance.randint(0, 255) for _ in range(chance.choice((0, 1, 2, 6, 256))))),
        (b"PLTE", bytes(range(chance.choice((0, 3, 4, 255))))),
        (b"eXIf", chance.choice((b"", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x06\0\0\0\0\0\0",
        b"II*\0\xff\xff\xff\xff"))),
        (b"iCCP", b"x\0\0" + zlib.compress(bytes(chance.choice((0, 128, 4000))))),
        (b"zTXt", b"k\0\0" + zlib.compress(b"v" * chance.choice((1, 10**6)))),
        (b"acTL", struct.pack(">II", chance.choice((0, 1, 2, 2**31)), 0)),
        (b"gAMA", b"\0\0\0\0"), (b"IDAT", b""), (b"IEND", b""), (name, _flip(content, chance)), (name, content[:-1]),
    )  # fmt: skip
    new = chance.choice(extra)
    chunks[chosen : chosen + chance.randint(0, 1)] = [new]
    body = (
        struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))
        for kind, inside in chunks
    )
    return data[:8] + b"".join(body)


TREES: dict[str, Mutator] = {
    "csv": _csv_cells,
    "tsv": _csv_cells,
    "jsonl": _json_line,
    "parquet": _parquet_columns,
    "config": _yaml_values,
    "image": _png_chunks,
    "bundle": _json_text,
    "http": _json_text,
}
