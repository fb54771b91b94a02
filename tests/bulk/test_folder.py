"""What the folder of bulk predictions keeps, and what it refuses."""

import pyarrow.parquet as pq
import pytest

from unfreeze.bulk.folder import Written, check_output, open_folder, pieces_done, write_piece, written
from unfreeze.errors import RequestError
from unfreeze.runtime.predictions import Prediction, write_predictions

MADE_OF = {"run": "a", "inputs": "b", "column": None, "top_k": 2, "piece_rows": 10}
GOOD = Prediction("one", "ham", 0.75, False, None, (("ham", 0.75), ("spam", 0.25)))
BAD = Prediction.unread("two", "the cell is empty")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return open_folder(str(path), MADE_OF)


def test_good_rows_have_the_columns_of_plain_predictions_and_bad_ones_lie_beside(folder, tmp_path):
    assert write_piece(folder, 3, [GOOD, BAD, GOOD], top_k=2) == written(folder) == Written(2, 1)
    write_predictions([GOOD, GOOD], tmp_path / "plain.parquet", top_k=2)
    assert pq.read_table(folder.path / "predictions" / "part-000003.parquet").equals(
        pq.read_table(tmp_path / "plain.parquet")
    )
    beside = pq.read_table(folder.path / "bad" / "part-000003.parquet").to_pylist()
    assert beside == [{"input": "two", "reason": "the cell is empty"}]


def test_a_piece_is_done_when_its_predictions_are_whole(folder, monkeypatch):
    def killed(path, content):
        if path.parent.name == "predictions":
            raise KeyboardInterrupt
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr("unfreeze.bulk.folder.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            write_piece(folder, 0, [GOOD, BAD], top_k=2)
    assert (folder.path / "bad" / "part-000000.parquet").exists()
    assert pieces_done(folder) == frozenset()
    # The row has been mended meanwhile: it may not stand in both places.
    assert write_piece(folder, 0, [GOOD, GOOD], top_k=2) == written(folder) == Written(2, 0)
    assert pieces_done(folder) == {0}


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("run", "another run"),
        ("inputs", "other inputs"),
        ("column", "another --column"),
        ("top_k", "another --top-k"),
        ("piece_rows", "another --piece-rows"),
    ],
)
def test_a_folder_made_of_anything_else_is_refused_by_name(folder, field, words):
    open_folder(str(folder.path), MADE_OF)
    with pytest.raises(RequestError, match=words):
        open_folder(str(folder.path), MADE_OF | {field: "other"})


def test_a_folder_of_somebody_else_and_a_file_are_refused(tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(RequestError, match="is not empty"):
        open_folder(str(tmp_path), MADE_OF)
    for path, words in (
        (None, "name a folder"),
        (tmp_path / "letter.txt", "one file"),
        (tmp_path / "a.csv", "one file"),
    ):
        with pytest.raises(RequestError, match=words):
            check_output(None if path is None else str(path))
