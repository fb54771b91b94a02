"""The tables that benches train and test on: the solar cells of the demo, and a file of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unfreeze.demo import Cell, solar_cells, write_table

TEST_SHARE = 0.25

# A training table and a test table.
Tables = tuple[Path, Path]


def write_cells(folder: Path, rows: int, seed: int) -> Tables:
    """Tables of ``rows`` cells, drawn by seed, and of the quarter of all cells that is held out from every seed."""
    cells = solar_cells()
    groups: dict[tuple[str, str], list[Cell]] = {}
    for row in np.random.default_rng(0).permutation(len(cells)):
        groups.setdefault((cells[row].label, cells[row].kind), []).append(cells[row])
    test = [cell for group in groups.values() for cell in group[: round(len(group) * TEST_SHARE)]]
    held = {cell.image for cell in test}
    rest = [cell for cell in cells if cell.image not in held]
    chosen = np.random.default_rng(seed).permutation(len(rest))[:rows]
    paths = folder / f"train{seed}.csv", folder / "test.csv"
    write_table([rest[row] for row in chosen], paths[0])
    write_table(test, paths[1])
    return paths


def write_texts(source: Path, folder: Path, rows: int, seed: int, *, test_rows: int = 600) -> Tables:
    """Parquet tables with the columns text and label: ``rows`` of them drawn by seed, and a test set of all seeds.

    Repeated texts are left out, so that no text is both learnt and tested.
    """
    import pyarrow.parquet as parquet

    table = parquet.read_table(source, columns=["text", "label"])
    texts = table.column("text").to_pylist()
    single = np.array(sorted({text: place for place, text in enumerate(texts)}.values()))
    mixed = np.random.default_rng(0).permutation(single)
    test, rest = mixed[:test_rows], mixed[test_rows:]
    if len(rest) < rows:
        raise SystemExit(f"{source} has {len(rest)} texts to train on, not {rows}.")
    chosen = np.random.default_rng(seed).permutation(rest)[:rows]
    paths = folder / f"train{seed}.parquet", folder / "test.parquet"
    for path, places in zip(paths, (chosen, test), strict=True):
        parquet.write_table(table.take(places), path)
    return paths


def write_few_texts(source: Path, folder: Path, per_class: int, seed: int) -> Tables:
    """The same with ``per_class`` training texts of every label."""
    import pyarrow.parquet as parquet

    pool, test = write_texts(source, folder, 2_000, seed)
    table = parquet.read_table(pool)
    labels = np.array(table.column("label").to_pylist())
    places = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in sorted(set(labels))])
    path = folder / f"few{seed}.parquet"
    parquet.write_table(table.take(places), path)
    return path, test
