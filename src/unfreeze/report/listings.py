"""What the smaller commands print: the audit, an evaluation, the list of backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unfreeze.report.terminal import on_one_line

MOST_LISTED = 10


def print_audit(audit: Mapping[str, Any], console: Console) -> None:
    """The audit for a person: what was inferred, counts, sizes, and what is wrong."""
    console.print(
        _text(f"{audit['source']}: {audit['rows']:,} {audit['modality']}s, {len(audit['labels'])} classes")
    )
    for entry in audit["inferred"]:
        console.print(_text(f"  {entry['what']}: {entry['value']} ({entry['reason']})", style="dim"))
    console.print()
    console.print(_counts(audit))
    console.print(Text(f"Largest class over smallest, in train: {audit['imbalance']:.1f}"))
    for line in _lengths(audit):
        console.print(Text(line))
    _list(
        "Unreadable",
        len(audit["quarantined"]),
        [f"{e['name']}: {e['reason']}" for e in audit["quarantined"]],
        console,
    )
    _list(
        "Ignored",
        sum(e["count"] for e in audit["ignored"]),
        [f"{e['name']}: {e['reason']}" for e in audit["ignored"]],
        console,
    )
    _list("Rows that repeat an earlier one", audit["duplicate_rows"], _groups(audit["duplicates"]), console)
    _list(
        "Same content in several parts", audit["across_parts_count"], _groups(audit["across_parts"]), console
    )
    _list(
        "Same content, different class",
        audit["contradictions_count"],
        _groups(audit["contradictions"]),
        console,
    )
    for warning in audit["warnings"]:
        console.print(_text(f"! {warning}", style="yellow"))


def print_scores(evaluation: Mapping[str, Any], console: Console) -> None:
    """The scores of an evaluation, with intervals, and a line a class."""
    console.print(
        _text(f"{evaluation['run']} on {evaluation['data']}: {evaluation['n']:,} rows", style="bold")
    )
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        low, high = evaluation[f"{name}_low"], evaluation[f"{name}_high"]
        console.print(
            Text(f"  {name.replace('_', ' '):19} {evaluation[name]:6.1%}  (95 % {low:.1%} to {high:.1%})")
        )
    console.print(Text(f"  {'most frequent class':19} {evaluation['majority']:6.1%}"))
    for name in ("log_loss", "ece"):
        console.print(Text(f"  {name.replace('_', ' '):19} {evaluation[name]:.4f}"))
    table = Table(box=None, pad_edge=False)
    table.add_column("class", max_width=30)
    for name in ("precision", "recall", "F1", "rows"):
        table.add_column(name, justify="right")
    for name, row in evaluation["per_class"].items():
        shares = (row["precision"], row["recall"], row["f1"])
        cells = [f"{share:.1%}" if row["support"] else "-" for share in shares]
        table.add_row(_text(name), *cells, f"{row['support']:,}")
    console.print(table)
    unreadable = [f"{entry['input']}: {entry['reason']}" for entry in evaluation["unreadable"]]
    _list("Unreadable, not scored", len(unreadable), unreadable, console)
    for warning in evaluation["warnings"]:
        console.print(_text(f"! {warning}", style="yellow"))


def print_backbones(entries: Sequence[Mapping[str, Any]], console: Console) -> None:
    """One line a backbone; those whose weights are on this disk are marked."""
    if not entries:
        console.print("No backbone matches. Any timm or Hugging Face name can be given to --backbone.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("here")
    table.add_column("name", overflow="fold")
    table.add_column("reads")
    for name in ("parameters", "size"):
        table.add_column(name, justify="right")
    table.add_column("licence")
    table.add_column("source", overflow="fold")
    for entry in entries:
        parameters = "" if entry["parameters"] is None else f"{entry['parameters'] / 1e6:.1f} M"
        table.add_row(
            "yes" if entry["on_disk"] else "",
            Text(entry["name"]),
            entry["modality"],
            parameters,
            "" if entry["size"] is None else str(entry["size"]),
            entry["licence"] or "",
            Text(entry["source"]),
        )
    console.print(table)


def _text(text: str, style: str = "") -> Text:
    return Text(on_one_line(text), style=style)


def _counts(audit: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class", max_width=40)
    for part in audit["counts"]:
        table.add_column(part, justify="right")
    for label in audit["labels"]:
        table.add_row(_text(label), *(f"{counts[label]:,}" for counts in audit["counts"].values()))
    return table


def _lengths(audit: Mapping[str, Any]) -> list[str]:
    def spread(values: Mapping[str, float]) -> str:
        return f"{values['min']:g} to {values['max']:g}, median {values['median']:g}"

    if audit["images"] is not None:
        images = audit["images"]
        lines = [f"Width {spread(images['width'])}; height {spread(images['height'])} pixels"]
        if images["extreme_count"]:
            lines.append(f"{images['extreme_count']:,} images are more than twice as long as wide: see --fit")
        return lines
    texts = audit["texts"]
    line = f"Length {spread(texts['length'])} {texts['unit']}"
    if texts["truncated"] is not None:
        line += f"; {texts['truncated']:.1%} are longer than {texts['max_length']} and would be cut"
    return [line]


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{', '.join(group['names'][:3])} (in {', '.join(group['parts'])})" for group in groups]


def _list(title: str, total: int, lines: Sequence[str], console: Console) -> None:
    if not total:
        return
    console.print(Text(f"{title}: {total:,}", style="bold"))
    for line in lines[:MOST_LISTED]:
        console.print(_text(f"  {line}"))
    if len(lines) > MOST_LISTED:
        console.print(Text("  …"))
