"""Text files are read in the encoding that they are in, or not at all; white space is no text."""

import pytest

from unfreeze.data.reading import read_raw
from unfreeze.data.samples import FileSamples, ListSamples, strings
from unfreeze.runtime.decode import Quarantined
from unfreeze.runtime.texts import BadText, as_text, full_text

TEXT = "caf\xe9, \u65e5\u672c"
READ = {
    "UTF-8": TEXT.encode(),
    "UTF-8 with a mark": TEXT.encode("utf-8-sig"),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16, big": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "UTF-32, big": b"\x00\x00\xfe\xff" + TEXT.encode("utf-32-be"),
}
UNREAD = {
    "latin-1": "caf\xe9".encode("latin-1"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "half of UTF-16": TEXT.encode("utf-16")[:-1],
}
BLANK = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "a mark alone": b"\xef\xbb\xbf",
    "wide spaces": "\u3000\xa0".encode(),
}


def read(folder, content):
    """What a file of these bytes holds, or the reason why it cannot be read."""
    (folder / "a.txt").write_bytes(content)
    found = read_raw(FileSamples(folder, strings(["a.txt"]), "text", range(1)), 0)
    return found.reason if isinstance(found, Quarantined) else found


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_a_file_is_read_as_its_mark_says(tmp_path, content):
    assert as_text(content) == TEXT
    assert read(tmp_path, content) == TEXT


@pytest.mark.parametrize("content", UNREAD.values(), ids=UNREAD)
def test_a_file_in_another_encoding_is_a_row_that_cannot_be_read(tmp_path, content):
    with pytest.raises(BadText, match="it is not UTF-8 text"):
        as_text(content)
    assert read(tmp_path, content) == "it is not UTF-8 text: convert it"


@pytest.mark.parametrize("content", BLANK.values(), ids=BLANK)
def test_white_space_is_no_text_wherever_it_comes_from(tmp_path, content):
    with pytest.raises(BadText, match="the text is empty"):
        full_text(content)
    assert read(tmp_path, content) == "the text is empty"
    items = (content.decode("utf-8-sig"),)
    assert read_raw(ListSamples(items, range(1)), 0) == Quarantined("item 1", "the text is empty")
    assert read_raw(ListSamples(items, range(1), blank=True), 0) == items[0]
