"""From what was said to cells, and what is refused before anything is read."""

import numpy as np
import pytest

from unfreeze.comparing.call import compare
from unfreeze.comparing.entry import parse_entries
from unfreeze.comparing.request import Cell, make_request, safe_name
from unfreeze.config import TrainRequest
from unfreeze.errors import RequestError


def request_of(*, base=None, **said):
    return make_request(TrainRequest(data="x", **(base or {})), **said)


def problems(**said):
    with pytest.raises(RequestError) as refused:
        request_of(**said).check()
    return str(refused.value)


def test_cells_are_every_combination_seed_by_seed_with_the_floor_first():
    request = request_of(strategies="full,lora:rank=4", seeds=2, train_size="100,50")
    cells = request.cells(request.entries, (None,))
    assert [cell.name for cell in cells[:6]] == [
        "feature-extraction-n50-seed0",
        "full-n50-seed0",
        "lora_rank=4-n50-seed0",
        "feature-extraction-n100-seed0",
        "full-n100-seed0",
        "lora_rank=4-n100-seed0",
    ]
    assert len(cells) == 12
    assert len({cell.name for cell in cells}) == 12


def test_the_floor_that_is_named_is_not_trained_twice():
    request = request_of(strategies="full,feature-extraction,feature-extraction:head=mlp", seeds=1)
    names = [cell.entry.name for cell in request.cells(request.entries, (None,))]
    assert names == ["feature-extraction", "full", "feature-extraction:head=mlp"]


def test_a_training_gets_what_its_strategy_reads_and_its_own_settings_win():
    request = request_of(base={"epochs": 3, "image_size": 64}, strategies="full,lora:epochs=5+rank=2")
    floor, full, lora = (request.train_request(cell) for cell in request.cells(request.entries, (None,))[:3])
    assert (floor.strategy, floor.epochs, floor.image_size) == ("feature-extraction", None, 64)
    assert (full.epochs, full.rank) == (3, None)
    assert (lora.epochs, lora.rank, lora.seed) == (5, 2, 0)
    for train_request in (floor, full, lora):
        train_request.check()


def test_what_the_classic_recipe_fixes_is_not_given_to_it():
    request = request_of(base={"epochs": 3}, strategies="full:recipe=classic,full")
    classic, own = (request.train_request(Cell(entry, 0)) for entry in request.entries)
    assert (classic.epochs, own.epochs) == (None, 3)


def test_auto_gets_what_holds_for_all_its_candidates_and_its_time_alone():
    request = request_of(base={"epochs": 3, "rank": 4, "time_limit": "5m"}, strategies="auto,lora")
    auto, lora = (request.train_request(Cell(entry, 0)) for entry in request.entries)
    assert (auto.epochs, auto.rank, auto.time_limit) == (3, None, "5m")
    assert (lora.epochs, lora.rank, lora.time_limit) == (3, 4, None)
    request.check()
    assert "--time-limit would have no effect on lora" in problems(
        base={"time_limit": "5m"}, strategies="lora"
    )


def test_a_head_that_only_the_floor_or_a_ranking_reads_is_taken():
    request = request_of(base={"head": "mlp", "batch_size": 8}, strategies="full:recipe=classic")
    request.check()
    floor, classic = (request.train_request(cell) for cell in request.cells(request.entries, (None,))[:2])
    assert (floor.head, floor.batch_size) == ("mlp", 8)
    assert (classic.head, classic.batch_size) == (None, None)
    request_of(base={"head": "mlp", "batch_size": 8}, backbones="a,b").check()
    said = problems(base={"head": "mlp", "recipe": "classic"}, backbones="a,b")
    assert "--head" not in said


SHARED = {
    "augment": "strong",
    "patience": 3,
    "mixup": 0.2,
    "label_smoothing": 0.1,
    "interpolate": True,
    "ema": 0.9,
}


@pytest.mark.parametrize("name", SHARED)
def test_auto_is_trained_with_what_train_would_take_for_it(name):
    request = request_of(base={name: SHARED[name]}, strategies="auto,full")
    request.check()
    given = [getattr(request.train_request(Cell(entry, 0)), name) for entry in request.entries]
    assert given == [SHARED[name]] * 2
    # Where auto stands alone too.
    request_of(base={name: SHARED[name]}, strategies="auto").check()


def test_the_same_folder_never_stands_for_two_entries():
    texts = ["lora:targets=a.b", "lora:targets=a,b", "lora:targets=a/b", "lora:targets=a b"]
    names = {safe_name(entry.name) for text in texts for entry in parse_entries(text)}
    assert len(names) == 4
    assert all("/" not in name and " " not in name for name in names)
    assert safe_name("lora:rank=16+lr=1e-3") == "lora_rank=16+lr=1e-3"
    assert len(safe_name("timm:" + "x" * 300)) == 80


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"seeds": 0}, "--seeds 0 trains nothing"),
        ({"seeds": -3}, "--seeds -3 trains nothing"),
        ({"seeds": []}, "--seeds names none"),
        ({"seeds": 10**9}, "--seeds is out of range"),
        ({"train_size": (1, 50)}, "--train-size 1 is out of range"),
        ({"backbones": "a,b", "base": {"backbone": "c"}}, "--backbone and --backbones were both given"),
        ({"resume": True}, "--resume needs --output-dir"),
        ({"strategies": "full", "base": {"rank": 4}}, "--rank would have no effect on full"),
        (
            {"strategies": "full", "base": {"recipe": "classic", "head": "mlp"}},
            "--head would have no effect on full",
        ),
        (
            {"backbones": "a,b", "base": {"recipe": "classic"}},
            "--recipe would have no effect on a ranking of backbones",
        ),
        ({"backbones": "a,b", "base": {"rank": 4}}, "--rank would have no effect on a ranking of backbones"),
        ({"base": {"strategy": "full"}}, "--strategy is decided for each training by --strategies"),
        ({"base": {"seed": 3}}, "--seed is decided"),
        ({"strategies": "full:rank=4"}, "--rank is a setting of lora"),
        ({"strategies": "full:lr=7"}, "--lr 7 is out of range"),
        # A setting that all share too, and that this entry does not read.
        (
            {"strategies": "full,full:recipe=classic+epochs=3", "base": {"epochs": 5}},
            "--epochs cannot be set beside --recipe classic",
        ),
        (
            {"strategies": "auto,lora:time_limit=5m", "base": {"time_limit": "10m"}},
            "--time-limit is a setting of --strategy auto",
        ),
        ({"base": {"val": 2.0}}, "--val 2 is no share"),
        ({"backbones": "a,b", "train_size": "50,100"}, "draws learning curves of strategies"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_a_sentence(said, words):
    assert words in problems(**said)


def test_numbers_of_numpy_are_numbers(tmp_path):
    request = request_of(
        strategies="full",
        seeds=np.int64(3),
        train_size=np.array([100, 50]),
        output_dir=str(tmp_path),
    )
    assert (request.seeds, request.sizes, request.output_dir) == ((0, 1, 2), (50, 100), tmp_path)
    assert request_of(seeds=np.array([4, 2]), train_size=np.int64(50)).sizes == (50,)
    assert request_of(backbones=np.array(["a", "b"])).backbones == ("a", "b")
    named = [cell.name for cell in request_of(seeds=[np.int64(4)]).cells((), (None,))]
    assert named == ["feature-extraction-seed4"]


@pytest.mark.parametrize(
    "said",
    [
        {"seeds": 2.0},
        {"seeds": "3"},
        {"seeds": True},
        {"seeds": None},
        {"seeds": [0, 1.5]},
        {"train_size": 50.5},
        {"train_size": [50, "100"]},
        {"strategies": [1]},
        {"strategies": 7},
        {"backbones": ["a", None]},
        {"output_dir": 3},
        {"output_dir": []},
        {"resume": "yes"},
    ],
)
def test_values_of_the_wrong_kind_are_named(said):
    (name,) = said
    option = "--" + name.replace("_", "-")
    with pytest.raises(RequestError, match=rf"^{option} .* is of the wrong kind: give .*\.$"):
        compare("no/such/data", **said)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"train_size": "50,many"}, "'50,many' is no list of whole numbers"),
        ({"train_size": ","}, "names no size"),
        ({"backbones": " , "}, "--backbones names none"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(said, words):
    with pytest.raises(RequestError, match=words):
        request_of(**said)
