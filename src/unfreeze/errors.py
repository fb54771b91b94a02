"""What can go wrong, as a person should read it.

    UnfreezeError            the work failed: exit status 1
    ├── DivergedError        a loss was no number: a lower rate may help
    ├── LoneError            one process of several met it by itself
    ├── StoppedError         it was asked to stop, and goes on with --resume: exit status 75
    └── RequestError         the request was wrong: exit status 2
        └── DataError        the request was wrong because of the data it names

A message is one or two sentences: what, which value or file, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# A person reads a few lines; lists of columns or backbones fit.
MOST_CHARACTERS = 1_500
MOST_NAMES = 8


class UnfreezeError(Exception):
    """The work failed for a reason that the message names."""

    exit_status = 1


class StoppedError(UnfreezeError):
    """The work was asked to stop; what was saved is kept, and it continues with --resume.

    The exit status is that of a temporary failure in sysexits.h: the same command later may succeed.
    """

    exit_status = 75


class DivergedError(UnfreezeError):
    """A loss or a gradient was not finite, in a batch of these training ``rows``.

    ``where`` is the message without what to do. ``kept``: whether the best weights so far were saved, so that
    ``--resume`` goes on from them at lower rates.
    """

    def __init__(
        self, where: str, *, rows: tuple[int, ...] = (), names: tuple[str, ...] = (), kept: bool = False
    ) -> None:
        shown = [*(names or map(str, rows))][:MOST_NAMES]
        more = ", …" if len(rows) > MOST_NAMES else ""
        batch = f" (training rows {', '.join(shown)}{more})" if shown else ""
        goes_on = "Go on from the best weights so far with --resume and" if kept else "Train again with"
        super().__init__(f"{where}{batch}. {goes_on} a lower --lr, such as a third of it.")
        self.where, self.rows, self.kept = where, rows, kept


class LoneError(UnfreezeError):
    """What one process has met by itself while the others wait for it: it has to end, so that they notice."""


class RequestError(UnfreezeError):
    """The request was wrong: an argument, a file or a combination of them."""

    exit_status = 2


class DataError(RequestError):
    """The data named in the request cannot be used as they are."""


def readable(message: str, *, most: int = MOST_CHARACTERS) -> str:
    """The message as a terminal should show it: control characters from names escaped, the middle of a long one cut."""
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in message
    )
    if len(shown) <= most:
        return shown
    # What went wrong stands first, what to do last; names in between may be of any length.
    return f"{shown[: most * 2 // 3]} … {shown[-most // 3 :]}"


def first_line(problem: BaseException, *, most: int = 200) -> str:
    """What an exception says first, cut to so many characters; its type where it says nothing."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:most]


def did_you_mean(word: str, known: Iterable[str], *, most: int = 2) -> str:
    """A sentence that names the closest known words, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""


def missing_extra(extra: str, purpose: str) -> RequestError:
    """The error for a package of an extra that is not installed; names the exact install line."""
    return RequestError(
        f"{purpose} needs the extra '{extra}'. Install it with: pip install 'unfreeze[{extra}]'"
    )
