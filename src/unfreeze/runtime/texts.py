"""From the bytes of a text file to its text, the same in training, prediction and serving."""

from __future__ import annotations

import codecs

from unfreeze.runtime.decode import BadInput

EMPTY_TEXT = "the text is empty"
NO_TEXT = "it is not UTF-8 text: convert it"
# The longer marks first: that of UTF-16 begins that of UTF-32.
ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class BadText(BadInput):
    """The input is no text that can be used; the message is a short reason."""


def as_text(raw: bytes | str) -> str:
    """The text of a raw input: of a file in UTF-8, or in what its byte-order mark names, without that mark.

    Raises BadText for any other file. Bytes that are replaced would change the words that they stand in, unseen.
    """
    if isinstance(raw, str):
        return raw
    encoding = next((name for mark, name in ENCODINGS if raw.startswith(mark)), "utf-8-sig")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise BadText(NO_TEXT) from None


def full_text(raw: bytes | str) -> str:
    """The same of an input that is to be answered; raises BadText for one that holds nothing but white space."""
    text = as_text(raw)
    # Its answer would be that of no text at all, as sure as any other.
    if not text.strip():
        raise BadText(EMPTY_TEXT)
    return text
