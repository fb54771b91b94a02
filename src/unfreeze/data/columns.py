"""Which column of a table holds what: as the request says, else as its names and first rows suggest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from unfreeze.data.dataset import Inference, Modality
from unfreeze.data.rows import IMAGE_SUFFIXES, PART_NAMES, Columns, listed, suffix_of
from unfreeze.data.tables import Table, is_bytes_type
from unfreeze.errors import DataError, RequestError, did_you_mean

IMAGE_NAMES = ("image", "img", "picture", "photo", "image_path", "path", "file", "filename", "file_name")
TEXT_NAMES = ("text", "sentence", "content", "body", "message", "review", "comment", "document", "tweet")
LABEL_NAMES = ("label", "labels", "class", "target", "category", "y", "klass", "sentiment", "species")
SPLIT_NAMES = ("split", "part", "subset", "partition", "set")
# A column counts as image paths when nearly all of its cells end like one.
SHARE_OF_PATHS = 0.9
# Without a telling name, a text column has at least this many characters on average, and a label column at
# most this share of different values: prose on one side, a few repeated words on the other.
PROSE_CHARACTERS = 15
SHARE_OF_LABELS = 0.5
# Whole numbers below are themselves as floats.
EXACT = 2.0**53


@dataclass(frozen=True)
class ChosenColumns:
    """The columns to read; ``content`` holds the image or the text."""

    modality: Modality
    content: str
    label: str
    split: str | None
    group: str | None
    stratify: str | None
    inferred: tuple[Inference, ...]


@dataclass(frozen=True)
class _Column:
    """What the head of a table says about one column."""

    name: str
    is_bytes: bool
    values: tuple[str, ...]
    kind: Any

    @property
    def is_path(self) -> bool:
        """Whether its values are paths of images."""
        paths = sum(suffix_of(value) in IMAGE_SUFFIXES for value in self.values)
        return bool(self.values) and paths >= SHARE_OF_PATHS * len(self.values)

    @property
    def is_image(self) -> bool:
        return self.is_bytes or self.is_path

    @property
    def is_text(self) -> bool:
        return not self.is_image and is_string(self.kind)

    @property
    def is_prose(self) -> bool:
        characters = sum(map(len, self.values))
        return self.is_text and characters >= PROSE_CHARACTERS * max(1, len(self.values))

    @property
    def could_be_label(self) -> bool:
        if self.is_bytes or self.is_image or pa.types.is_floating(self.kind):
            return False
        return len(set(self.values)) <= max(2, SHARE_OF_LABELS * len(self.values))


def choose_columns(table: Table, asked: Columns) -> ChosenColumns:
    """The columns of the table. Raises RequestError for unknown names and DataError when it is unclear."""
    _check_names(table, asked)
    columns = [_column(table, name) for name in table.head.column_names]
    group = asked.group
    if asked.group_beside in table.head.column_names:
        group = asked.group_beside
    taken = {asked.label, group, asked.stratify}
    split = next((column.name for column in columns if _is_split(column) and column.name not in taken), None)
    free = [column for column in columns if column.name != split and column.name not in taken]
    modality, content, why = _content(free, table, asked)
    inferred = [Inference("modality", modality, why), Inference(f"{modality} column", content, why)]
    label = asked.label
    if label is None:
        label, why_label = _label([column for column in free if column.name != content], table)
        inferred.append(Inference("label column", label, why_label))
    if split is not None:
        inferred.append(Inference("split column", split, "its name and values name parts, so they are kept"))
    if asked.text or asked.image:
        inferred = inferred[2:]
    return ChosenColumns(modality, content, label, split, group, asked.stratify, tuple(inferred))


def content_column(table: Table, *, modality: Modality, asked: str | None, label: str | None = None) -> str:
    """The column with the inputs of a table without labels: the one ``asked`` for, else what it suggests.

    The column ``label``, or one whose name says that it holds labels, is never suggested: what it tells must not reach
    a model as an input.
    Raises RequestError for an unknown name and DataError when it is unclear or of the other modality.
    """
    known = table.head.column_names
    if asked is not None:
        if asked not in known:
            raise RequestError(
                f"--column {asked!r}: {table.name} has no such column.{did_you_mean(asked, known)} "
                f"Its columns are {listed(known, most=20)}."
            )
        if modality == "text" and _column(table, asked).is_path:
            _raise_other(table, modality, asked)
        return asked
    inputs = [name for name in known if name.lower() not in LABEL_NAMES and name != label]
    described = [_column(table, name) for name in inputs]
    images = [column for column in described if column.is_image]
    texts = [column for column in described if column.is_text]
    telling = [column for column in texts if column.is_prose or column.name.lower() in TEXT_NAMES]
    if modality == "image":
        only, fitting, others = _only(images, IMAGE_NAMES), images, telling
    else:
        # Beside images, a column of a few words is more likely their label than the text.
        fitting = telling if images else texts
        prose = [column for column in fitting if column.is_prose]
        only, others = _only(fitting, TEXT_NAMES) or (prose[0] if len(prose) == 1 else None), images
    if only is not None:
        return only.name
    if others and not fitting:
        _raise_other(table, modality, others[0].name)
    _raise_unclear(table, f"the {modality}s", fitting, "--column")


def _raise_other(table: Table, modality: Modality, column: str) -> NoReturn:
    found, wanted = (
        ("texts", "a column of image paths") if modality == "image" else ("images", "a column of texts")
    )
    raise DataError(
        f"This run reads {modality}s, and {table.name} holds {found} (column {column!r}). "
        f"Give {modality}s, or name {wanted} with --column."
    )


def is_string(kind: Any) -> bool:
    """Whether an Arrow type holds strings, dictionary-encoded or not."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)
    )


def text_of(column: Any, *, what: str) -> Any:
    """The column's values as strings; ``what`` names it. Raises DataError for a type that has no text."""
    try:
        return column.cast(pa.large_string())
    except pa.ArrowException:
        raise DataError(f"{what} holds {column.type}, which is no text: choose another column.") from None


def is_blank(column: Any) -> Any:
    """Which of an Arrow column's strings are missing, empty or nothing but spaces."""
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)


def _check_names(table: Table, asked: Columns) -> None:
    known = table.head.column_names
    problems = [
        f"{flag} {name!r}: {table.name} has no such column.{did_you_mean(name, known)} "
        f"Its columns are {listed(known, most=20)}."
        for flag, name in asked.flags().items()
        if name not in known
    ]
    if asked.text and asked.image:
        problems.append("--text-column and --image-column are both given: choose one.")
    for flag, name in asked.flags().items():
        if flag in ("--text-column", "--image-column") and name == asked.label:
            problems.append(f"{flag} and --label-column both name {name!r}: they must differ.")
    if problems:
        raise RequestError("\n".join(problems))


def _column(table: Table, name: str) -> _Column:
    column = table.head.column(name)
    if is_bytes_type(column.type):
        return _Column(name, True, (), column.type)
    if pa.types.is_nested(column.type):
        return _Column(name, False, (), column.type)
    try:
        values = column.cast(pa.large_string()).to_pylist()
    except pa.ArrowException:  # an interval, or a time in a zone that is none
        values = []
    return _Column(name, False, tuple(value for value in values if value), column.type)


def _is_split(column: _Column) -> bool:
    return (
        column.name.lower() in SPLIT_NAMES
        and bool(column.values)
        and all(value.strip().lower() in PART_NAMES for value in column.values)
    )


def _content(free: list[_Column], table: Table, asked: Columns) -> tuple[Modality, str, str]:
    if asked.image:
        return "image", asked.image, "named by --image-column"
    if asked.text:
        return "text", asked.text, "named by --text-column"
    images = [column for column in free if column.is_image]
    named = [column for column in free if column.is_text and column.name.lower() in TEXT_NAMES]
    if images and named:
        raise DataError(
            f"{table.name} has image columns ({listed([c.name for c in images])}) and text columns "
            f"({listed([c.name for c in named])}): say which to use with --image-column or --text-column."
        )
    if images:
        column = _only(images, IMAGE_NAMES)
        if column is None:
            _raise_unclear(table, "images", images, "--image-column")
        why = "it holds image files" if column.is_bytes else "its values end like image files"
        return "image", column.name, why
    column = _only(named, TEXT_NAMES)
    if column is not None:
        return "text", column.name, "its name says so"
    prose = [column for column in free if column.is_prose and column.name.lower() not in LABEL_NAMES]
    if len(prose) == 1:
        return "text", prose[0].name, "the only column of longer texts"
    _raise_unclear(table, "the text or image", prose or free, "--text-column or --image-column")


def _label(free: list[_Column], table: Table) -> tuple[str, str]:
    column = _only([column for column in free if column.name.lower() in LABEL_NAMES], LABEL_NAMES)
    if column is not None:
        return column.name, "its name says so"
    candidates = [column for column in free if column.could_be_label]
    if len(candidates) == 1:
        return candidates[0].name, "the only column with a few repeated values"
    _raise_unclear(table, "the label", candidates or free, "--label-column")


def _only(columns: list[_Column], names: tuple[str, ...]) -> _Column | None:
    """The only column, or the one whose name comes first in ``names``."""
    if len(columns) == 1:
        return columns[0]
    ranked = sorted(
        (names.index(column.name.lower()), column.name) for column in columns if column.name.lower() in names
    )
    if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        return None
    return next(column for column in columns if column.name == ranked[0][1])


def _raise_unclear(table: Table, what: str, candidates: list[_Column], flag: str) -> NoReturn:
    names = [column.name for column in candidates]
    found = f"it could be {listed(names)}" if names else f"its columns are {listed(table.head.column_names)}"
    raise DataError(f"{table.name}: which column holds {what} is unclear ({found}). Name it with {flag}.")


def label_strings(column: Any, names: tuple[str, ...] | None, *, what: str) -> Any:
    """A column's values as class names (Arrow strings, null where missing).

    Whole numbers lose a ``.0``, booleans become true and false, spaces around a name are dropped, and
    ``names`` gives names to integers (negative ones mean: no label). Raises DataError for values that name
    nothing.
    """
    kind = column.type
    if names is not None and pa.types.is_integer(kind):
        codes = pc.if_else(pc.less(column, 0), pa.scalar(None, kind), column)
        if (pc.max(codes).as_py() or 0) >= len(names):
            raise DataError(f"{what} holds {pc.max(codes).as_py()}, but names {len(names)} classes only.")
        return pa.chunked_array([pa.array(names, type=pa.large_string())]).take(codes)
    if pa.types.is_nested(kind) or is_bytes_type(kind):
        raise DataError(f"{what} holds {kind}, not one label a row: choose another with --label-column.")
    return value_strings(column, what=what)


def value_strings(column: Any, *, what: str) -> Any:
    """A column's values as strings, spelled alike whatever its type and format (null where missing or blank).

    Raises DataError, in which ``what`` names the column, for values that have no text.
    """
    kind = column.type
    if pa.types.is_nested(kind):
        raise DataError(f"{what} holds {kind}, not one value a row: choose another.")
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), EXACT))
        if pc.all(whole).as_py():
            column = column.cast(pa.int64())
    text = text_of(column, what=what)
    return pc.if_else(is_blank(text), pa.scalar(None, pa.large_string()), pc.utf8_trim_whitespace(text))
