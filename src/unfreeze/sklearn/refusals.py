"""Errors as scikit-learn's users and tools expect them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from unfreeze.errors import RequestError

# Settings whose name means something else in an estimator.
PARAMETERS: Mapping[str, str] = {"fit": "image_fit", "val": "validation_fraction", "seed": "random_state"}
SETTINGS: Mapping[str, str] = {parameter: setting for setting, parameter in PARAMETERS.items()}
_FLAG = re.compile(r"--([a-z][a-z-]*)")


class InvalidRequestError(RequestError, ValueError):
    """A request that cannot be met: a ValueError to scikit-learn, a RequestError to those who know Unfreeze."""


@contextmanager
def as_value_errors() -> Iterator[None]:
    """Turns a RequestError into a ValueError that names parameters instead of flags."""
    try:
        yield
    except RequestError as problem:
        raise InvalidRequestError(_FLAG.sub(_parameter, str(problem))) from problem


def _parameter(flag: re.Match[str]) -> str:
    name = flag[1].replace("-", "_")
    return PARAMETERS.get(name, name)
