"""The demo: real photographs of solar cells, a backbone from a package, no network, no GPU."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.config import TrainRequest
from unfreeze.errors import RequestError, UnfreezeError, missing_extra
from unfreeze.progress import Progress
from unfreeze.run import Run, free_run_folder, train
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.remote import here_alone

if TYPE_CHECKING:
    from rich.console import Console

# Deitsch et al. 2019, Solar Energy 185: a fine-tuned VGG19, on a 75/25 split as here.
PUBLISHED_CNN = 0.8842
LICENCE = (
    "The images are licensed CC BY-NC-SA 4.0 (Deitsch et al., Buerhop-Lutz et al.): not for commercial use."
)

TABLE, COLUMNS = "solar_cells.csv", ("image", "label", "cell_type")


@dataclass(frozen=True)
class Cell:
    """One photographed cell: its file, the probability that it is defective, and its kind (mono or poly)."""

    image: Path
    defect_probability: float
    kind: str

    @property
    def label(self) -> str:
        """Defective above one half, as in the published evaluation."""
        return "defective" if self.defect_probability > 0.5 else "functional"


def solar_cells() -> list[Cell]:
    """The 2,624 cells of the package ``elpv-dataset``; raises RequestError when it is not installed."""
    # The package is found, not imported: it would load all the images into memory by another road.
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise missing_extra("demo", "The demo")
    folder = Path(spec.origin).parent / "data"
    cells = []
    for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines():
        if line.strip():
            name, probability, kind = line.split()
            cells.append(Cell(image=folder / name, defect_probability=float(probability), kind=kind))
    if not cells:
        raise UnfreezeError(f"{folder / 'labels.csv'} lists no cells: reinstall elpv-dataset.")
    return cells


def write_table(cells: list[Cell], path: Path) -> None:
    """Write a CSV with the columns image, label and cell_type."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([str(cell.image), cell.label, cell.kind] for cell in cells)
    write_atomically(path, text.getvalue())


def _check_own(table: Path) -> None:
    """Raise RequestError where another file has the name of the demo's table."""
    try:
        with table.open("rb") as file:
            own = file.readline().strip() == ",".join(COLUMNS).encode()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        own = False
    if not own:
        raise RequestError(
            f"{table} is not the demo's, which writes its table under that name beside the run: choose another "
            "--output-dir."
        )


def run_demo(
    *, output_dir: Path | None, seed: int, time_limit: str, progress: Progress, console: Console
) -> Run:
    """Train on the cells, 75/25 stratified by label and kind, predict four held-out ones, print where to look."""
    if refused := here_alone(output_dir, "--output-dir"):
        raise RequestError(refused)
    cells = solar_cells()
    folder = output_dir or free_run_folder("demo")
    table = folder.parent / TABLE
    _check_own(table)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RequestError(
            f"--output-dir {folder}: {folder.parent} is a file. Name another folder."
        ) from None
    write_table(cells, table)
    progress.say(f"{len(cells):,} electroluminescence photographs of solar cells. {LICENCE}")
    request = replace(demo_request(table, folder, seed=seed), time_limit=time_limit)
    run = train(request, progress=progress, command="unfreeze demo")
    run.print(console)
    _show_predictions(run, cells, console)
    ours = run.test
    console.print(
        f"\nPublished for this data (CNN, Deitsch et al. 2019): {PUBLISHED_CNN:.2%}. "
        f"Here, with {run.strategy} within {time_limit}: {ours.accuracy:.2%} "
        f"(95 % interval {ours.accuracy_low:.1%} to {ours.accuracy_high:.1%}, {ours.n} held-out cells).",
    )
    console.print(f"Open the report in a browser: {run.folder / 'report.html'}", soft_wrap=True)
    return run


def demo_request(table: Path, folder: Path, *, seed: int) -> TrainRequest:
    """The published protocol: a quarter of the cells held out, stratified by label and kind."""
    return TrainRequest(
        data=str(table),
        output_dir=folder,
        backbone="efficientnet-lite0",
        test=0.25,
        stratify_column="cell_type",
        seed=seed,
    )


def _show_predictions(run: Run, cells: list[Cell], console: Console) -> None:
    truth = {str(cell.image): cell.label for cell in cells}
    held_out = run.test_names[: len(run.test_names) : max(1, len(run.test_names) // 4)][:4]
    console.print("\nA few held-out cells:")
    for prediction in run.model().predict([Path(name) for name in held_out]):
        console.print(
            f"  {Path(prediction.input).name}  {prediction.label:<11} {prediction.probability or 0.0:6.1%}"
            f"   truly {truth[prediction.input]}{'   (abstains)' if prediction.abstain else ''}"
        )
