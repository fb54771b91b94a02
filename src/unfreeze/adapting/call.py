"""``unfreeze.adapt``: the command's settings as keyword arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unfreeze.adapting.adaptation import Adaptation
from unfreeze.adapting.request import AUTO, AdaptRequest
from unfreeze.adapting.run import adapt as run_adapt
from unfreeze.progress import Progress


def adapt(
    run: str | Path,
    target: str | Path | Sequence[str | Path],
    *,
    output_dir: str | Path | None = None,
    method: str = AUTO,
    threshold: float | None = None,
    source: str | Path | None = None,
    column: str | None = None,
    order_column: str | None = None,
    target_labels: str | Path | None = None,
    label_column: str | None = None,
    report_target_accuracy: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Adaptation:
    """The run of folder ``run``, adapted to unlabelled data when that helps; see ``unfreeze adapt --help``.

    ``target``: a folder, a file or a table; several are steps of a change, in their order. Raises RequestError or
    DataError when the run, the target or the request cannot be used.
    """
    targets = [target] if isinstance(target, str | Path) else list(target)
    request = AdaptRequest(
        run=Path(run),
        target=tuple(str(one) for one in targets),
        output_dir=None if output_dir is None else Path(output_dir),
        method=method,
        threshold=threshold,
        source=None if source is None else str(source),
        column=column,
        order_column=order_column,
        target_labels=None if target_labels is None else str(target_labels),
        label_column=label_column,
        report_target_accuracy=report_target_accuracy,
        seed=seed,
        device=device,
    )
    return run_adapt(request, progress=progress)
