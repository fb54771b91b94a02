"""One call from a source to a data set with parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unfreeze.data.dataset import PARTS, Dataset, Inference, Part
from unfreeze.data.folder import read_folder
from unfreeze.data.hub import is_hub_id, read_hub
from unfreeze.data.memory import read_pair
from unfreeze.data.remote import read_remote
from unfreeze.data.rows import NOT_GIVEN, NOT_UTF8, Columns, Rows, escaped, has_utf8, listed
from unfreeze.data.samples import join_samples
from unfreeze.data.shards import is_shard_pattern, is_shards, read_shards
from unfreeze.data.split import Pool, draw_parts, hash_order
from unfreeze.data.subset import keep_rows
from unfreeze.data.table import read_table_file
from unfreeze.data.tokens import Tokens
from unfreeze.errors import DataError, RequestError, did_you_mean
from unfreeze.regular import names_file, names_folder
from unfreeze.runtime.labels import Labels
from unfreeze.runtime.remote import is_remote

Source = str | Path | tuple[Sequence[Any], Sequence[Any]]
# Shares of train, val and test.
FRACTIONS = (0.70, 0.15, 0.15)


@dataclass(frozen=True)
class Reader:
    """A kind of source: whether it is one, and how its rows are read."""

    name: str
    accepts: Callable[[Any], bool]
    read: Callable[[Any, Columns], Rows]


def _is_shards(source: Any) -> bool:
    return names_folder(source) and is_shards(Path(source))


READERS = (
    Reader("pair", lambda source: isinstance(source, tuple), read_pair),
    Reader("remote", is_remote, read_remote),
    Reader("shards", _is_shards, read_shards),
    Reader("folder", names_folder, lambda s, columns: read_folder(Path(s), columns)),
    Reader("table", names_file, lambda s, c: read_table_file(Path(s), c)),
    Reader("pattern", is_shard_pattern, read_shards),
    Reader("hub", lambda source: isinstance(source, str) and is_hub_id(source), read_hub),
)


def load_dataset(
    source: Source,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    stratify_column: str | None = None,
    val: float | Source | None = None,
    test: float | Source | None = None,
    seed: int = 0,
    train_size: int | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    labels: Labels | None = None,
) -> Dataset:
    """The labelled data set with train, val and test parts.

    Parts that the source or ``val`` and ``test`` (data of their own) give are kept; the others are drawn from
    the rest, stratified by class (and ``stratify_column``), whole groups when ``group_column`` is named.
    ``fractions``, and ``val`` and ``test`` as numbers, are shares of the rows that are drawn from. ``labels``
    fixes the classes and their order; otherwise they are those of train, sorted. ``train_size``: how many of the rows
    that train and val are drawn from stay; see ``keep_rows``.
    Raises RequestError and DataError.
    """
    columns = Columns(text_column, image_column, label_column, group_column, stratify_column)
    shares = _shares(fractions, val, test)
    rows = _read(source, columns)
    given = _given(rows)
    extra: dict[Part, Rows] = {}
    asked: dict[Part, float | Source | None] = {"val": val, "test": test}
    for part, value in asked.items():
        if value is None:
            continue
        if part in given:
            raise RequestError(
                f"{rows.source} has a {part} part of its own, and --{part} asks for another: leave one out."
            )
        if not isinstance(value, int | float):
            extra[part] = _read_part(value, columns, part)
    if given and "train" not in given:
        raise DataError(f"{rows.source} has {' and '.join(sorted(given))} rows but no train part.")
    missing = {part: share for part, share in shares.items() if part not in given and part not in extra}
    train = _names(rows, _in_train(rows))
    _check_classes(rows, extra, train, labels)
    order = labels or Labels.of(train)
    drawn, notes = _draw(rows, missing, seed)
    whole = _joined(rows, extra)
    everything = Dataset(
        source=rows.source,
        modality=rows.modality,
        labels=order,
        samples=whole.samples,
        label=_relabelled(whole, order),
        part=np.concatenate([drawn, whole.part[len(rows) :]]),
        group=whole.group,
        given=frozenset(given | set(extra)),
        ignored=whole.ignored,
        inferred=(*whole.inferred, *notes),
        warnings=whole.warnings,
        tokens=Tokens() if rows.modality == "text" else None,
    )
    if train_size is None:
        return everything
    kept, note = _keep(rows, drawn, train_size, seed)
    beside = np.arange(len(rows), len(everything))
    return replace(everything.select(np.concatenate([kept, beside])), inferred=(*everything.inferred, note))


def load_whole(
    source: Source,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    labels: Labels | None = None,
) -> Dataset:
    """All labelled rows of a source; rows without a part of their own count as test, and nothing is drawn.

    ``labels`` are those of the classifier to be scored: a class it does not know raises DataError.
    """
    rows = _read(source, Columns(text_column, image_column, label_column, group_column, ungrouped=True))
    known = labels or Labels.of(rows.names)
    unknown = sorted(set(rows.names) - set(known))
    if unknown:
        raise DataError(
            f"{rows.source} has the classes {listed(unknown)}, which the classifier does not know: "
            f"its classes are {listed(known.names)}.{did_you_mean(unknown[0], known)}"
        )
    return Dataset(
        source=rows.source,
        modality=rows.modality,
        labels=known,
        samples=rows.samples,
        label=_relabelled(rows, known),
        part=np.where(rows.part == NOT_GIVEN, PARTS.index("test"), rows.part).astype(np.int8),
        group=rows.group,
        given=frozenset(_given(rows)),
        ignored=rows.ignored,
        inferred=rows.inferred,
        warnings=rows.warnings,
    )


def _shares(
    fractions: tuple[float, float, float], val: float | Source | None, test: float | Source | None
) -> dict[Part, float]:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0:
        raise RequestError(
            f"The fractions {fractions} must be three shares (train, val, test) that sum to 1."
        )
    shares: dict[Part, float] = {"val": fractions[1], "test": fractions[2]}
    asked: dict[Part, float | Source | None] = {"val": val, "test": test}
    for part, value in asked.items():
        if isinstance(value, int | float):
            if not 0 < value < 1:
                raise RequestError(
                    f"--{part} {value:g} is no share: give a number between 0 and 1, or a data set."
                )
            shares[part] = float(value)
    if sum(shares.values()) >= 1:
        raise RequestError(
            f"--val {shares['val']:g} and --test {shares['test']:g} leave nothing to train on: "
            "their sum must stay below 1."
        )
    return shares


def _read(source: Any, columns: Columns) -> Rows:
    if not isinstance(source, str | Path | tuple):
        raise RequestError(
            f"A {type(source).__name__} is no data set: give a path, a hub id, or a pair (inputs, labels)."
        )
    if not isinstance(source, tuple) and not has_utf8(str(source)):
        raise DataError(f"{escaped(str(source))} cannot be read: {NOT_UTF8}.")
    for reader in READERS:
        if reader.accepts(source):
            return reader.read(source, columns)
    path = Path(str(source))
    if os.path.lexists(path):
        raise DataError(f"{source} is neither a folder nor a file.")
    beside = [entry.name for entry in path.parent.iterdir()] if names_folder(path.parent) else []
    raise DataError(f"{source} does not exist.{did_you_mean(path.name, beside)}")


def _read_part(source: Any, columns: Columns, part: Part) -> Rows:
    """The rows of ``--val`` or ``--test`` data: their part of that name if they have parts, else all."""
    # A table's columns say nothing about a folder, and balancing is a matter of drawing.
    is_table = not isinstance(source, tuple) and (not names_folder(source) or _is_shards(source))
    rows = _read(
        source,
        replace(columns, group=None, stratify=None, group_beside=columns.group, ungrouped=True)
        if is_table
        else Columns(),
    )
    given = _given(rows)
    if given and part not in given:
        raise DataError(
            f"--{part} {rows.source} comes in parts ({', '.join(sorted(given))}), but has no {part} part."
        )
    keep = np.flatnonzero(rows.part == PARTS.index(part)) if given else np.arange(len(rows))
    note = Inference(f"{part} part", f"{len(keep):,} rows", f"from {rows.source}")
    return replace(
        rows,
        samples=rows.samples.select(keep),
        code=rows.code[keep],
        part=np.full(len(keep), PARTS.index(part), dtype=np.int8),
        group=None if rows.group is None else rows.group[keep],
        inferred=(note,),
    )


def _given(rows: Rows) -> set[Part]:
    return {PARTS[number] for number in np.unique(rows.part) if number != NOT_GIVEN}


def _in_train(rows: Rows) -> NDArray[np.bool_]:
    """Rows that are train or that parts are drawn from."""
    return np.asarray((rows.part == NOT_GIVEN) | (rows.part == PARTS.index("train")))


def _names(rows: Rows, where: NDArray[np.bool_]) -> list[str]:
    return sorted(rows.names[code] for code in np.unique(rows.code[where]))


def _check_classes(rows: Rows, extra: Mapping[Part, Rows], train: list[str], labels: Labels | None) -> None:
    if len(train) < 2:
        found = f"has one class only ({listed(train)})" if train else "has no labelled row to train on"
        raise DataError(
            f"{rows.source} {found}: a classifier needs two. Put each class into a folder of its own, "
            "or name the label column of a table."
        )
    held_out = {part: set(_names(rows, rows.part == PARTS.index(part))) for part in PARTS[1:]}
    for part, more in extra.items():
        if more.modality != rows.modality:
            raise DataError(
                f"--{part} {more.source} holds {more.modality}s, but {rows.source} {rows.modality}s."
            )
        held_out[part] = set(_names(more, np.ones(len(more), dtype=bool)))
    for part, names in held_out.items():
        unknown = sorted(names - set(train))
        if unknown:
            raise DataError(
                f"The {part} part has the classes {listed(unknown)}, but train does not: "
                f"a class can only be learned from train.{did_you_mean(unknown[0], train)}"
            )
    if labels is not None and (unknown := sorted(set(train) - set(labels))):
        raise DataError(
            f"{rows.source} has the classes {listed(unknown)}, which are not among the given labels."
        )


def _draw(
    rows: Rows, missing: Mapping[Part, float], seed: int
) -> tuple[NDArray[np.int8], tuple[Inference, ...]]:
    where, pool = _pool(rows, seed)
    drawn = draw_parts(pool, missing)
    part = rows.part.copy()
    part[where] = drawn
    names = [name for name, share in missing.items() if share > 0]
    if not names:
        return part, ()
    shares = ", ".join(f"{name} {missing[name]:.0%}" for name in names)
    drawn_from = "train" if _given(rows) else "all rows"
    notes = [Inference("split", shares, f"drawn from {drawn_from} by class, seed {seed}")]
    validated = set(np.unique(pool.label[drawn == PARTS.index("val")]).tolist())
    lacking = [name for code, name in enumerate(pool.names) if "val" in names and code not in validated]
    if lacking:
        notes.append(Inference("val part", f"without {listed(lacking)}", "too few rows of these classes"))
    return part, tuple(notes)


def _pool(rows: Rows, seed: int) -> tuple[NDArray[np.intp], Pool]:
    """The rows that parts are drawn from, as positions and as a pool."""
    where = np.flatnonzero(_in_train(rows))
    present = tuple(_names(rows, _in_train(rows)))
    rank_of = {name: rank for rank, name in enumerate(present)}
    ranks = np.array([rank_of.get(name, -1) for name in rows.names], dtype=np.int32)
    return where, Pool(
        source=rows.source,
        names=present,
        label=ranks[rows.code[where]],
        order=hash_order(rows.identity, seed)[where],
        group=None if rows.group is None else rows.group[where],
        stratum=None if rows.stratum is None else rows.stratum[where],
    )


def _keep(
    rows: Rows, drawn: NDArray[np.int8], train_size: int, seed: int
) -> tuple[NDArray[np.intp], Inference]:
    """The rows that stay when ``train_size`` are learned from, ascending, and a note."""
    where, pool = _pool(rows, seed)
    part = drawn[where]
    kept = np.ones(len(rows), dtype=bool)
    kept[where] = keep_rows(pool, part, train_size)
    among = int((part != PARTS.index("test")).sum())
    note = Inference(
        "train size", f"{train_size:,} rows", f"of {among:,} that are not test, by class, seed {seed}"
    )
    return np.flatnonzero(kept), note


def _joined(rows: Rows, extra: Mapping[Part, Rows]) -> Rows:
    if not extra:
        return rows
    everything = [rows, *extra.values()]
    names = tuple(dict.fromkeys(name for more in everything for name in more.names))
    index = {name: code for code, name in enumerate(names)}
    codes = [np.array([index[name] for name in more.names], dtype=np.int32)[more.code] for more in everything]
    return replace(
        rows,
        samples=join_samples(
            tuple(more.samples for more in everything), ("", *(f"{part}:" for part in extra))
        ),
        names=names,
        code=np.concatenate(codes),
        part=np.concatenate([more.part for more in everything]),
        group=None if rows.group is None else _joint_groups(everything),
        ignored=tuple(entry for more in everything for entry in more.ignored),
        inferred=tuple(entry for more in everything for entry in more.inferred),
        warnings=tuple(warning for more in everything for warning in more.warnings),
    )


def _joint_groups(everything: Sequence[Rows]) -> NDArray[np.int32]:
    """Codes of the groups of all rows by value, so that one that lies in several parts is found; -1: none."""
    values = pa.chunked_array([rows.groups for rows in everything if rows.groups is not None]).unique()
    codes = [
        np.full(len(rows), -1, dtype=np.int32)
        if rows.group is None
        else np.append(np.asarray(pc.index_in(rows.groups, value_set=values)), -1)[rows.group]
        for rows in everything
    ]
    return np.concatenate(codes).astype(np.int32)


def _relabelled(rows: Rows, order: Labels) -> NDArray[np.int32]:
    return np.array([order.index(name) if name in order else -1 for name in rows.names], dtype=np.int32)[
        rows.code
    ]
