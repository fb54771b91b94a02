"""The data of a finished run once more, split as it was."""

from __future__ import annotations

from pathlib import Path

from unfreeze.bundle.loading import Loaded
from unfreeze.config import TrainRequest, read_config
from unfreeze.data.dataset import Dataset
from unfreeze.data.hub import HUB_PREFIX, is_hub_id
from unfreeze.data.memory import SOURCE as IN_MEMORY
from unfreeze.data.shards import fits_a_file, is_shard_pattern
from unfreeze.errors import DataError, RequestError
from unfreeze.regular import names_anything
from unfreeze.runtime.remote import is_remote, scrubbed
from unfreeze.training.prepare import read_data


def open_source(loaded: Loaded, source: str | None) -> tuple[Dataset | None, str]:
    """The data that the run was trained on, split as it was then, or None; and a sentence that says which.

    ``source`` names data to take instead; then RequestError says what is wrong with it. Otherwise what cannot be opened
    any more, or is no longer the same, is not at hand. Relative paths count from the folder that was current then.
    """
    wanted = loaded.bundle.data
    place = located(wanted.source, wanted.folder) if source is None else source
    name = scrubbed(place)
    try:
        dataset = _read(loaded, place, other=source is not None)
    except (RequestError, DataError) as problem:
        if source is not None:
            raise
        first = str(problem).splitlines()[0]
        return None, f"The data that the run was trained on cannot be opened any more ({first})"
    if source is None and dataset.fingerprint != wanted.fingerprint:
        return None, f"{name} has changed since the run was trained on it, so it is left out"
    if dataset.labels.names != loaded.bundle.labels:
        raise RequestError(f"{name} has other classes than the run: {_compare(dataset, loaded)}.")
    if dataset.modality != loaded.bundle.modality:
        raise RequestError(f"{name} holds {dataset.modality}s, and the run reads {loaded.bundle.modality}s.")
    return dataset, f"The source's data is at hand: {name}, {len(dataset):,} rows"


def located(name: str, folder: str) -> str:
    """The path of recorded data: from ``folder``, or as it stands where it is not there (any more)."""
    there = str(Path(folder) / name)
    return there if folder and _is_here(there) else name


def _is_here(name: str) -> bool:
    return names_anything(name) or (is_shard_pattern(name) and fits_a_file(name))


def _is_at_hand(name: str) -> bool:
    """Whether recorded data can be opened: without its prefix, a name of the hub is that of a folder that is gone."""
    return _is_here(name) or is_remote(name) or name.startswith(HUB_PREFIX)


def _read(loaded: Loaded, name: str, *, other: bool) -> Dataset:
    if name == IN_MEMORY:
        raise RequestError("they were given in memory")
    if not _is_at_hand(name) and not (other and is_hub_id(name)):
        raise RequestError(f"{name} does not exist")
    path = loaded.folder / "config.yaml"
    # What else a run holds is enough to predict with, and its folder may have been made without settings.
    config = read_config(path) if path.exists() else {}
    for part in ("val", "test"):
        beside = config.get(part)
        if isinstance(beside, str):
            place = config[part] = located(beside, loaded.bundle.data.folder)
            if other and not _is_at_hand(place):
                # Who names other data cannot bring these back: the part is drawn from the rows that there are.
                del config[part]
    return read_data(TrainRequest(data=name).filled_from(config, source=str(path)))


def _compare(dataset: Dataset, loaded: Loaded) -> str:
    new = [name for name in dataset.labels.names if name not in loaded.bundle.labels]
    gone = [name for name in loaded.bundle.labels if name not in dataset.labels.names]
    told = [
        f"{', '.join(map(repr, names))} {what}"
        for names, what in ((new, "is new"), (gone, "is missing"))
        if names
    ]
    return "; ".join(told) or "they stand in another order"
