"""Runs behind a URL: fetched whole before they are loaded, trained here and then written there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from unfreeze.bundle.claim import LOCK, UNFINISHED
from unfreeze.bundle.folder import BUNDLE, CHECKPOINTS
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.runtime.exported import TOKENIZER
from unfreeze.runtime.remote import fetch, here_alone, is_remote, list_files, name_of, scrubbed, with_beside
from unfreeze.runtime.uploads import claim, upload

EXPORTED = "model.onnx"
# What PyTorch and Optimum add to the name of a graph for the weights that they write beside it.
EXTERNAL_DATA = ".data", "_data"


@dataclass(frozen=True)
class Destination:
    """Where a run is trained, and the URL that it is written to when it is whole."""

    folder: Path
    url: str | None = None

    @property
    def shown(self) -> str:
        """What its user calls it."""
        return str(self.folder) if self.url is None else scrubbed(self.url)

    def begin(self, *, resume: bool) -> None:
        """Raise RequestError when the URL cannot be written, or something lies there that is not to be resumed."""
        if self.url is not None:
            claim(self.url, resume=resume)

    def deliver(self) -> None:
        """Write the run to its URL, ``bundle.json`` last: without it no folder is taken for a run.

        Raises UnfreezeError, which says where the run lies, when the store refuses.
        """
        if self.url is None:
            return
        kept = (path for path in self.folder.rglob("*") if path.is_file())
        names = sorted(path.relative_to(self.folder).as_posix() for path in kept)
        left_out = (LOCK, UNFINISHED, BUNDLE)
        wanted = [name for name in names if name not in left_out and not name.startswith(f"{CHECKPOINTS}/")]
        try:
            upload(self.folder, self.url, [*wanted, BUNDLE])
        except UnfreezeError as problem:
            raise UnfreezeError(
                f"{problem} The run is in {self.folder}: repeat the command with --resume to write it again."
            ) from None


def destination(place: str | Path, runs: Path) -> Destination:
    """Where the run of ``--output-dir`` is trained: there, or for a URL in a folder of ``runs`` that is always its."""
    if not is_remote(place):
        if refused := here_alone(place, "--output-dir as a path"):
            raise RequestError(refused)
        return Destination(Path(place))
    url = place.rstrip("/")
    digest = hashlib.sha256(scrubbed(url).encode()).hexdigest()[:8]
    return Destination(runs / f"{name_of(url)}-{digest}", url)


def run_folder(place: str | Path) -> Path:
    """The folder of a run, fetched first where it is a URL; a URL of an exported ``.onnx`` file gives that file.

    With such a file come its tokenizer and its weights, if they lie beside it, and nothing else.
    Raises RequestError for a URL where nothing is, or no finished run.
    """
    if not is_remote(place):
        return Path(place)
    listing = list_files(place)
    if listing.is_file:
        (name,) = listing.files
        if not name.lower().endswith(".onnx"):
            raise RequestError(f"{scrubbed(place)} is no run folder: it is a file.")
        return fetch(with_beside(listing, [TOKENIZER, *(name + ending for ending in EXTERNAL_DATA)])) / name
    if BUNDLE not in listing.files and EXPORTED not in listing.files:
        raise RequestError(f"{scrubbed(place)} is no finished run: it has no {BUNDLE}.")
    return fetch(listing)
