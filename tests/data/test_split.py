"""Drawing parts: shares, strata, groups; the same for any order of the rows; too little is an error."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unfreeze.data.audit import audit
from unfreeze.data.dataset import PARTS
from unfreeze.data.load import load_dataset, load_whole
from unfreeze.data.split import Pool, class_counts, draw_parts, hash_order
from unfreeze.errors import DataError, RequestError
from unfreeze.runtime.labels import Labels

SHARES = {"val": 0.15, "test": 0.15}


def pool(label, *, group=None, stratum=None, seed=0, names=None) -> Pool:
    label = np.asarray(label, dtype=np.int32)
    identity = pa.array([f"row {n}" for n in range(len(label))])
    return Pool(
        source="toys",
        names=tuple(names or (f"c{n}" for n in range(label.max() + 1))),
        label=label,
        order=hash_order(identity, seed),
        group=None if group is None else np.asarray(group, dtype=np.int32),
        stratum=None if stratum is None else np.asarray(stratum, dtype=np.int32),
    )


def table(values, part, size):
    return [np.bincount(values[part == number], minlength=size).tolist() for number in range(3)]


def test_default_shares_are_70_15_15_in_every_class():
    label = np.repeat([0, 1, 2], [1000, 200, 20])
    assert table(label, draw_parts(pool(label), SHARES), 3) == [[700, 140, 14], [150, 30, 3], [150, 30, 3]]


def test_rounding_evens_out_over_many_classes():
    label = np.repeat(np.arange(100), 10)
    part = draw_parts(pool(label), SHARES)
    assert np.bincount(part).tolist() == [700, 150, 150]
    assert np.array(table(label, part, 100)).min() >= 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(3, (2, 0, 1)), (4, (2, 1, 1)), (5, (3, 1, 1)), (6, (4, 1, 1)), (7, (5, 1, 1)), (20, (14, 3, 3))],
)
def test_small_classes_follow_the_documented_counts(rows, expected):
    counts = class_counts(rows, {"val": rows * 0.15, "test": rows * 0.15})
    assert tuple(counts[part] for part in PARTS) == expected


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 60), min_size=2, max_size=6),
    val=st.floats(0.02, 0.45),
    test=st.floats(0.02, 0.45),
    seed=st.integers(0, 1000),
)
def test_train_and_test_hold_every_class_whatever_the_shares(sizes, val, test, seed):
    label = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.array(
        table(label, draw_parts(pool(label, seed=seed), {"val": val, "test": test}), len(sizes))
    )
    assert counts[0].min() >= 1
    assert counts[2].min() >= 1
    assert counts.sum() == sum(sizes)


def test_strata_are_spread_over_the_parts():
    label = np.repeat([0, 1], [600, 200])
    stratum = np.concatenate([np.repeat([0, 1], [400, 200]), np.repeat([0, 1], [40, 160])])
    part = draw_parts(pool(label, stratum=stratum), {"val": 0.0, "test": 0.25})
    both = table(label * 2 + stratum, part, 4)
    assert both[0] == [300, 150, 30, 120]
    assert both[2] == [100, 50, 10, 40]


def test_the_split_ignores_the_order_of_rows(tmp_path):
    rows = [f"text {n},{'ab'[n % 2]}\n" for n in range(60)]
    found = []
    for turn in range(2):
        path = tmp_path / f"{turn}.csv"
        path.write_text("text,label\n" + "".join(rows[::-1] if turn else rows))
        data = load_dataset(path)
        found.append({str(data.samples.read(row)): int(data.part[row]) for row in range(60)})
    assert found[0] == found[1]


def test_the_seed_changes_the_split_and_nothing_else_does():
    label = np.repeat([0, 1], 100)
    first, again, other = (draw_parts(pool(label, seed=seed), SHARES) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert 60 < np.sum(first != other) < 120


def test_equal_texts_share_a_part(tmp_path):
    texts = [f"text {n // 2 if n < 60 else n}" for n in range(200)]
    data = load_dataset((texts, ["ab"[n // 2 % 2] for n in range(200)]))
    for text in set(texts[:60]):
        assert len({int(data.part[row]) for row in range(60) if texts[row] == text}) == 1
    assert np.abs(np.bincount(data.part) / 200 - [0.7, 0.15, 0.15]).max() < 0.05


@pytest.mark.parametrize("copies", [2, 3, 4, 5, 10, 20])
@pytest.mark.parametrize("texts", [7, 30, 60])
def test_texts_that_repeat_regularly_never_lie_in_two_parts(texts, copies):
    text, label = np.arange(texts * copies) % texts, np.arange(texts * copies) % texts % 2
    identity = pa.array([f"text {number}" for number in text])
    order = hash_order(identity, seed=0)
    part = draw_parts(Pool("toys", ("a", "b"), label.astype(np.int32), order), SHARES)
    assert all(len(set(part[text == number])) == 1 for number in range(texts))
    rows = np.array(table(label, part, 2))
    assert rows.min() >= copies
    if texts >= 30:
        assert np.abs(rows / rows.sum(axis=0) - [[0.7], [0.15], [0.15]]).max() < 0.08


@pytest.mark.parametrize("pairs", [50, 300])
def test_every_part_has_its_share_of_the_texts_that_repeat(pairs):
    text = np.concatenate([np.repeat(np.arange(pairs), 2), np.arange(pairs, 1000 - pairs)])
    order = hash_order(pa.array([f"text {number}" for number in text]), seed=0)
    part = draw_parts(Pool("toys", ("a",), np.zeros(1000, dtype=np.int32), order), SHARES)
    assert np.bincount(part).tolist() == [700, 150, 150]
    repeated = np.bincount(part[: 2 * pairs], minlength=3) / (2 * pairs)
    assert np.abs(repeated - [0.7, 0.15, 0.15]).max() < 0.02


def test_a_text_that_is_most_of_a_class_is_learnt_from():
    texts = ["often"] * 50 + [f"text {number}" for number in range(50)]
    data = load_dataset((texts + [f"other {n}" for n in range(20)], ["a"] * 100 + ["b"] * 20))
    assert (data.part[:50] == PARTS.index("train")).all()
    assert table(data.label, data.part, 2) == [[70, 14], [15, 3], [15, 3]]


def test_equal_texts_never_empty_a_part():
    data = load_dataset((["same"] * 10 + [f"text {n}" for n in range(10)], ["a"] * 10 + ["b"] * 10))
    assert table(data.label, data.part, 2) == [[6, 8], [2, 1], [2, 1]]


def test_groups_stay_whole_and_every_part_has_every_class():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(60), random.integers(1, 30, 60))
    label = (group % 3 == 0).astype(int) ^ (random.random(len(group)) < 0.1)
    part = draw_parts(pool(label, group=group), SHARES)
    assert all(len(set(part[group == code])) == 1 for code in range(60))
    assert np.array(table(label, part, 2)).min() >= 1
    shares = np.bincount(part) / len(part)
    assert np.abs(shares - [0.7, 0.15, 0.15]).max() < 0.03


def test_three_groups_a_class_are_just_enough():
    group = np.repeat([0, 1, 2, 3, 4, 5], 10)
    label = np.repeat([0, 0, 0, 1, 1, 1], 10)
    assert table(label, draw_parts(pool(label, group=group), SHARES), 2) == [[10, 10]] * 3


def test_a_class_in_two_groups_cannot_make_three_parts():
    group = np.repeat([0, 1, 2, 3, 4, 5], 10)
    label = np.repeat([0, 0, 0, 0, 1, 1], 10)
    with pytest.raises(DataError, match=r"the class 'spam' occurs in 2 group\(s\) only, but 3 are needed"):
        draw_parts(pool(label, group=group, names=("ham", "spam")), SHARES)
    # Two parts are possible.
    part = draw_parts(pool(label, group=group), {"test": 0.3})
    assert np.array(table(label, part, 2))[[0, 2]].min() >= 10


def test_groups_reach_the_data_set(tmp_path):
    lines = [f"text {n},{'ab'[n // 10 % 2]},patient {n // 10}\n" for n in range(100)]
    (tmp_path / "m.csv").write_text("text,label,patient\n" + "".join(lines))
    data = load_dataset(tmp_path / "m.csv", group_column="patient")
    assert data.group is not None
    assert all(len(set(data.part[data.group == code])) == 1 for code in range(10))
    assert len(set(data.group)) == 10
    assert data.groups_of(np.arange(20)).tolist() == data.group[:20].tolist()


def patients(path, count, *, first=0, column="patient"):
    lines = [f"{path.name} text {n},{'ab'[n // 10 % 2]},patient {first + n // 10}\n" for n in range(count)]
    path.write_text(f"text,label,{column}\n" + "".join(lines))
    return path


def test_rows_of_a_part_that_was_given_without_groups_are_groups_of_their_own(tmp_path):
    source = patients(tmp_path / "m.csv", 100)
    test = patients(tmp_path / "test.csv", 20, column="note")
    data = load_dataset(source, group_column="patient", test=test)
    assert data.groups_of(data.rows("test")) is None
    mixed = data.groups_of(np.arange(len(data)))
    assert len(set(mixed)) == 10 + 20
    assert load_dataset(source).groups_of(np.arange(5)) is None


@pytest.mark.parametrize("part", ["val", "test"])
def test_groups_of_a_part_that_was_given_are_those_of_the_same_values(tmp_path, part):
    source = patients(tmp_path / "m.csv", 100)
    # Patients 8 and 9 lie in both; in this file they are numbers 0 and 1.
    more = patients(tmp_path / "more.csv", 40, first=8)
    data = load_dataset(
        source, group_column="patient", text_column="text", label_column="label", **{part: more}
    )
    assert data.group[100:120].tolist() == data.group[80:100].tolist()
    assert len(set(data.groups_of(data.rows(part))) - set(data.group[:100])) == 2
    assert audit(data).groups_across_parts >= 2
    apart = load_dataset(
        source, group_column="patient", text_column="text", label_column="label",
        **{part: patients(tmp_path / "apart.csv", 40, first=10)},
    )  # fmt: skip
    assert audit(apart).groups_across_parts == 0


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_without_a_group_are_left_out_of_every_format(tmp_path, kind):
    group = [None if n % 10 == 0 else float(n // 10) for n in range(100)]
    columns = {"text": [f"text {n}" for n in range(100)], "label": [*"ab"] * 50, "patient": group}
    path = tmp_path / f"m.{kind}"
    if kind == "parquet":
        missing = [float("nan") if value is None else value for value in group]
        pq.write_table(pa.table({**columns, "patient": missing}), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in pa.table(columns).to_pylist()))
    else:
        rows = zip(*columns.values(), strict=True)
        lines = [f"{text},{label},{' ' if value is None else int(value)}\n" for text, label, value in rows]
        path.write_text("text,label,patient\n" + "".join(lines))
    data = load_dataset(path, text_column="text", label_column="label", group_column="patient")
    assert len(data) == 90
    assert {entry.reason for entry in data.ignored} == {"no 'patient'"}
    assert np.bincount(data.group).tolist() == [9] * 10


@pytest.mark.parametrize(
    "asked",
    [
        {"stratify_column": "site"},
        {"stratify_column": "site", "train_size": 40},
        {"group_column": "patient"},
        {"group_column": "patient", "train_size": 40},
    ],
)
def test_the_split_ignores_the_order_of_rows_whatever_it_is_drawn_by(tmp_path, asked):
    chance = np.random.default_rng(0)
    # Groups share texts, as answers of a few words do.
    words = [chance.choice(["yes", "no", "thanks"]) if n % 3 == 0 else f"text {n}" for n in range(150)]
    rows = [f"{text},{'ab'[n % 2]},{'zyx'[n % 3]},patient {n // 3}\n" for n, text in enumerate(words)]
    found = []
    for order in (np.arange(150), chance.permutation(150), np.arange(150)[::-1]):
        path = tmp_path / "m.csv"
        path.write_text("text,label,site,patient\n" + "".join(rows[row] for row in order))
        data = load_dataset(path, text_column="text", label_column="label", **asked)
        lines = [order[int(data.samples.name(row).split(":")[1]) - 1] for row in range(len(data))]
        # Rows that differ in a column that is not read are the same.
        unread = 2 if "group_column" in asked else 3
        keys = [",".join(np.delete(rows[line].split(","), unread)) for line in lines]
        found.append(sorted(zip(keys, data.part.tolist(), strict=True)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"val": 1.5}, "--val 1.5 is no share"),
        ({"test": 0.0}, "--test 0 is no share"),
        ({"val": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"val": 0.9}, "leave nothing to train on"),
        ({"fractions": (0.5, 0.1, 0.1)}, "sum to 1"),
    ],
)
def test_shares_that_make_no_sense_are_wrong_requests(class_folders, asked, message):
    with pytest.raises(RequestError, match=message):
        load_dataset(class_folders({"a": 5, "b": 5}), **asked)


def test_shares_as_numbers_are_followed(class_folders):
    data = load_dataset(class_folders({"a": 40, "b": 40}), val=0.2, test=0.1)
    assert [len(data.rows(part)) for part in PARTS] == [56, 16, 8]


def test_own_val_and_test_data_are_kept_apart(class_folders):
    root = class_folders({"a": 20, "b": 20})
    val = class_folders({"b": 5}, root="more")
    test = class_folders({"train/a": 1, "test/b": 4}, root="third")
    data = load_dataset(root, val=val, test=test)
    assert data.given == {"val", "test"}
    assert [len(data.rows(part)) for part in PARTS] == [40, 5, 4]
    assert [data.labels.names[code] for code in data.label[data.rows("val")]] == list("bbbbb")
    assert data.samples.name(40) == "val:b/000.png"
    assert data.samples.read(40) == (val / "b" / "000.png").read_bytes()
    assert len({data.samples.name(row) for row in range(49)}) == 49


def test_only_the_part_that_is_taken_of_other_data_must_know_the_classes(class_folders):
    root = class_folders({"a": 20, "b": 20})
    other = class_folders({"train/a": 3, "train/c": 3, "test/a": 2, "test/b": 2}, root="other")
    data = load_dataset(root, test=other)
    assert data.labels.names == ("a", "b")
    assert table(data.label, data.part, 2)[2] == [2, 2]


@pytest.mark.parametrize("source", ["x" * 5000, "many words / and more " * 300, "a\0b"])
def test_what_no_file_can_be_called_does_not_exist(class_folders, source):
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(source)
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(class_folders({"a": 20, "b": 20}), test=source)


def test_parts_given_twice_are_a_wrong_request(class_folders):
    root = class_folders({"train/a": 5, "train/b": 5, "val/a": 2})
    with pytest.raises(RequestError, match="val part of its own, and --val asks for another"):
        load_dataset(root, val=0.2)


def test_val_data_of_another_kind_or_class_are_errors(class_folders):
    root = class_folders({"a": 20, "b": 20})
    with pytest.raises(DataError, match=r"holds texts, but .* images"):
        load_dataset(root, val=class_folders({"a": 3, "b": 3}, root="texts", content="x"))
    with pytest.raises(DataError, match="test part has the classes 'c', but train does not"):
        load_dataset(root, test=class_folders({"a": 3, "c": 3}, root="more"))


def test_whole_data_are_scored_as_they_are(class_folders):
    labels = Labels(("dog", "cat", "bee"))
    root = class_folders({"cat": 1})
    data = load_whole(root, labels=labels)
    assert data.labels == labels
    assert data.label.tolist() == [1]
    assert data.rows("test").tolist() == [0]
    parts = load_whole(
        class_folders({"train/cat": 2, "train/dog": 1, "test/dog": 3}, root="p"), labels=labels
    )
    assert parts.given == {"train", "test"}
    assert parts.label[parts.rows("test")].tolist() == [0, 0, 0]
    with pytest.raises(DataError, match=r"has the classes 'cats', which the classifier does not know.*'cat'"):
        load_whole(class_folders({"cats": 1}, root="wrong"), labels=labels)


def test_labels_that_are_given_keep_their_order(class_folders):
    root = class_folders({"a": 5, "b": 5})
    data = load_dataset(root, labels=Labels(("b", "c", "a")))
    assert data.labels.names == ("b", "c", "a")
    assert set(data.label.tolist()) == {0, 2}
    with pytest.raises(DataError, match="classes 'a', which are not among the given labels"):
        load_dataset(root, labels=Labels(("b", "c")))


def test_a_class_without_validation_rows_is_said(class_folders):
    data = load_dataset(class_folders({"a": 20, "b": 3}))
    assert any("without 'b'" in entry.value for entry in data.inferred)
