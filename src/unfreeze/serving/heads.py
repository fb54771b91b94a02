"""The heads of many tasks over the features of one batch, in one product for each depth that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unfreeze.heads.head import Head


def all_logits(
    heads: Mapping[str, Head], features: Mapping[int, NDArray[np.float32]], wanted: Sequence[tuple[str, ...]]
) -> list[dict[str, NDArray[np.float32]]]:
    """For each row its logits (classes,) by task.

    ``features`` at each boundary: (rows, width). ``wanted``: the tasks of each row. What a batch costs depends on the
    tasks that it asks for, not on how many there are.
    """
    answers: list[dict[str, NDArray[np.float32]]] = [{} for _ in wanted]
    asked: dict[str, list[int]] = {}
    for row, tasks in enumerate(wanted):
        for task in tasks:
            asked.setdefault(task, []).append(row)
    groups: dict[tuple[int, ...], list[str]] = {}
    for task in asked:
        head = heads[task]
        if head.kind == "linear":
            groups.setdefault(head.boundaries, []).append(task)
        else:
            rows = asked[task]
            logits = head.logits(_joined(features, head.boundaries)[rows])
            for row, found in zip(rows, logits, strict=True):
                answers[row][task] = found
    for boundaries, members in groups.items():
        _stacked({task: heads[task] for task in members}, _joined(features, boundaries), asked, answers)
    return answers


def _stacked(
    heads: Mapping[str, Head],
    features: NDArray[np.float32],
    asked: Mapping[str, Sequence[int]],
    answers: Sequence[dict[str, NDArray[np.float32]]],
) -> None:
    weight = np.concatenate([head.tensors["weight"] for head in heads.values()])
    bias = np.concatenate([head.tensors["bias"] for head in heads.values()])
    rows = sorted({row for task in heads for row in asked[task]})
    place = {row: index for index, row in enumerate(rows)}
    product = features[rows] @ weight.T + bias
    start = 0
    for task, head in heads.items():
        for row in asked[task]:
            answers[row][task] = product[place[row], start : start + head.classes]
        start += head.classes


def _joined(features: Mapping[int, NDArray[np.float32]], boundaries: tuple[int, ...]) -> NDArray[np.float32]:
    return np.concatenate([features[boundary] for boundary in boundaries], axis=1)
