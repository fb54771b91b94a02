"""Uploading an exported folder to the Hugging Face hub."""

from __future__ import annotations

import shlex
from pathlib import Path

from unfreeze.data.hub import HUB_ID
from unfreeze.errors import RequestError, UnfreezeError, first_line, missing_extra

PURPOSE = "--push-to-hub"


def check_hub(repository: str) -> None:
    """Nothing; RequestError where a folder could not be uploaded there, before any work is done."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        raise missing_extra("hub", PURPOSE) from None
    if HUB_ID.fullmatch(repository) is None:
        raise RequestError(f"{PURPOSE} {repository!r} is no repository of the hub: give OWNER/NAME.")
    if get_token() is None:
        raise RequestError(
            f"{PURPOSE} needs a token of the hub that may write: run `hf auth login`, or set HF_TOKEN."
        )


def push(folder: Path, repository: str, *, private: bool) -> str:
    """The address of the repository after the folder was uploaded to it; it is created where it does not exist.

    Raises UnfreezeError when the hub refuses or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        address = hub.create_repo(repository, private=private, repo_type="model", exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="model",
            commit_message="Upload an exported Unfreeze run",
        )
    except (
        Exception
    ) as problem:  # the hub's errors, those of its network library, and ValueError share no base
        first = first_line(problem)
        again = f"hf upload {repository} {shlex.quote(str(folder))}" + (" --private" if private else "")
        raise UnfreezeError(
            f"The export lies in {folder}, but it could not be uploaded to {repository}: {first.rstrip('.')}. It need "
            f"not be made again: upload the folder by `{again}`."
        ) from None
    return str(address)
