"""The model card: the run in Markdown, with the front matter that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unfreeze.report import tables, words
from unfreeze.report.content import ReportData, Table

NAME = "README.md"
MOST_CLASSES = 100
# Licence identifiers that the hub knows; anything else is written as "other" with its name.
KNOWN_LICENCES = frozenset(
    (
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "gpl-3.0",
        "lgpl-3.0",
        "mpl-2.0",
        "openrail",
        "gemma",
        "llama3.2",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
    )
)
# What the examples of use are run on: a file on the command line, a raw input in Python.
USED_ON = {"image": ("photo.jpg", "photo.jpg"), "text": ("texts.csv", "one text")}
MARKS = re.compile(r"([\\`*_\[\]#|~$])")


def model_card(data: ReportData) -> str:
    """The text of the run's ``README.md``."""
    file, raw = USED_ON[data.modality]
    parts = [
        f"---\n{_front_matter(data)}---",
        f"# {plain(words.title(data))}",
        plain(words.lead(data)),
        f"**{plain(words.verdict(data))}**",
        *(plain(sentence) for sentence in words.comparisons(data)),
        "## Use",
        "\n".join(("```sh", f"unfreeze predict RUN_FOLDER {file}", "```")),
        f'```python\nimport unfreeze\n\nmodel = unfreeze.load("RUN_FOLDER")\nmodel.predict(["{raw}"])\n```',
        _intended(data),
        "## Scores",
        f"Test: {words.number(data.test.n)} rows that training never saw. "
        f"Validation: {plain(data.validation_how)}.",
        _markdown(_scores(data)),
        plain(words.calibration_text(data)),
        plain(words.threshold_text(data)),
        "## Beside simpler answers",
        _markdown(_baselines(data)),
        "## Classes",
        _classes(data),
        "## Data",
        plain(
            f"{words.number(data.data.rows)} labelled {words.KINDS[data.modality]} from {data.data.source}: "
            + ", ".join(f"{words.number(sum(rows))} for {part}" for part, rows in data.data.filled.items())
            + f". Fingerprint {data.fingerprint}."
        ),
        plain(words.examples_text(data)),
        "## Limits",
        "\n".join(f"- {plain(sentence)}" for sentence in _limits(data)),
        "## How it was made",
        _code_block(data.command),
        plain(", ".join(f"{name} {version}" for name, version in data.versions.items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(data: ReportData) -> str:
    import yaml

    task = f"{data.modality}-classification"
    scores = [("accuracy", data.test.accuracy), ("f1", data.test.macro_f1)]
    values: dict[str, object] = {
        **_licence(data.backbone.licence),
        "library_name": "unfreeze",
        "pipeline_tag": task,
        "tags": ["unfreeze", task, "transfer-learning", data.strategy, words.printable(data.backbone.name)],
        **({} if data.backbone.published_as is None else {"base_model": data.backbone.published_as}),
        "metrics": ["accuracy", "f1"],
        "model-index": [
            {
                "name": words.printable(words.title(data)),
                "results": [
                    {
                        "task": {"type": task},
                        "dataset": {
                            "name": words.printable(data.data.name),
                            "type": "custom",
                            "split": "test",
                        },
                        "metrics": [
                            {
                                "type": name,
                                "value": round(estimate.value, 4),
                                "name": "macro F1" if name == "f1" else name,
                            }
                            for name, estimate in scores
                        ],
                    }
                ],
            }
        ],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1_000)


def _licence(name: str | None) -> dict[str, str]:
    """The hub's words for the backbone's licence, which the trained classifier inherits."""
    if name is None:
        return {"license": "unknown"}
    known = name.lower().replace(" ", "-")
    return (
        {"license": known}
        if known in KNOWN_LICENCES
        else {"license": "other", "license_name": words.printable(name)}
    )


def _intended(data: ReportData) -> str:
    kind, names = words.KINDS[data.modality], data.data.labels
    shown = ", ".join(f"'{name}'" for name in names[:10]) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )
    return plain(f"Meant for {kind} like those it was trained on, to tell apart: {shown}.")


def _scores(data: ReportData) -> Table:
    rows = tuple((name, test, validation) for name, _, test, validation in tables.score_rows(data))
    return Table(
        ("score", "test (95 % interval)", "validation (95 % interval)"), rows, numeric=frozenset({1, 2})
    )


def _baselines(data: ReportData) -> Table:
    rows = [(words.baseline_name(entry), words.with_interval(entry.accuracy)) for entry in data.baselines]
    rows.append(("this run", words.with_interval(data.test.accuracy)))
    return Table(("answer", "accuracy on test"), tuple(rows), numeric=frozenset({1}))


def _classes(data: ReportData) -> str:
    rows = tables.class_rows(data.test)
    if len(rows) > MOST_CLASSES:
        return f"{len(rows)} classes; their scores stand in `metrics.json`."
    columns = ("class", "precision (%)", "recall (%)", "F1 (%)", "test rows")
    return _markdown(Table(columns, tuple(rows), numeric=frozenset({1, 2, 3, 4})))


def _limits(data: ReportData) -> list[str]:
    """What a user of the classifier must know before relying on it."""
    kind = words.KINDS[data.modality]
    said = [
        f"The scores hold for {kind} from the same source; other origins or times can give lower ones.",
        "Every input gets one of the classes above, also an input that belongs to none of them.",
    ]
    if data.test.n < words.FEW_TEST_ROWS:
        said.append(f"The test part has {data.test.n} rows only, so the intervals are wide.")
    said += data.data.warnings
    said += data.backbone.notes
    for licence in data.licences:
        said.append(
            f"Licence of {licence.what}: {licence.licence}" + (f" ({licence.note})." if licence.note else ".")
        )
    return said


def _markdown(table: Table) -> str:
    rule = ["---:" if index in table.numeric else "---" for index in range(len(table.columns))]
    lines: list[Sequence[str]] = [[plain(name) for name in table.columns], rule]
    lines += [[plain(cell) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(text: str) -> str:
    """The text on one line, with everything that Markdown or HTML would read as a mark taken literally."""
    one_line = " ".join(words.printable(text).split())
    html = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKS.sub(r"\\\1", html)


def _code_block(text: str) -> str:
    """The text as a code block whose fence is longer than any run of backticks inside."""
    inside = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, inside + 1)
    return f"{fence}sh\n{words.printable(text)}\n{fence}"
