"""A checkpoint that is sealed and holds something else than this training writes is a sentence."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from unfreeze.engine.checkpoints import Checkpoints
from unfreeze.errors import RequestError, StoppedError
from unfreeze.plan import Phase, Plan, Thaw

PLAN = Plan(
    strategy="own",
    phases=(Phase(name="a", epochs=3, thaw=(Thaw(2, "weights", 0.01),), head_rate=0.02),),
    batch_size=8,
    ema=0.8,
    pull=0.01,
)


@pytest.fixture(scope="module")
def train(t):
    """Trains the toy in a folder, and stops after some steps where it is told to."""

    def run(folder, *, stop_after=None, resume=False):
        backbone, task = t.toy("cnn"), t.task_of("cnn", augment="none")
        steps = iter(range(1, 1000))
        return t.run(
            PLAN,
            backbone,
            task,
            prefix=t.maker(backbone, task, folder / "store", use="off", phases=PLAN.phases),
            checkpoints=Checkpoints(folder / "checkpoints", {"data": "d"}),
            resume=resume,
            should_stop=lambda: next(steps) == stop_after,
        )

    return run


@pytest.fixture(scope="module")
def stopped(train, tmp_path_factory):
    """The checkpoint of a training that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(StoppedError):
        train(folder, stop_after=7)
    return max(path for path in (folder / "checkpoints").iterdir() if path.is_dir())


def sealed(folder, change):
    """Change the manifest and seal it again, with the hash of the tensors as they are now."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["seal"]
    change(manifest)
    manifest["hash"] = hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest()
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest | {"seal": seal}))


def first_of(part, tensors):
    return next(name for name in sorted(tensors) if name.startswith(part))


def without(part):
    return lambda found: found.pop(first_of(part, found))


def flat(part):
    # One value would be spread over the whole parameter without a word.
    return lambda found: found.update({first_of(part, found): torch.zeros(1)})


MANIFESTS = {
    "a word for a phase": lambda m: m["position"].update(phase="x"),
    "a share of an epoch": lambda m: m["position"].update(epoch=0.5),
    "truth for a step": lambda m: m["position"].update(step=True),
    "less than nothing": lambda m: m["position"].update(step=-1),
    "an extra place": lambda m: m["position"].update(evil=1),
    "no place": lambda m: m.update(position=[]),
    "a phase that is none": lambda m: m["position"].update(phase=7),
    "an epoch that is none": lambda m: m["position"].update(epoch=10**9),
    "a step that is none": lambda m: m["position"].update(step=10**9),
    "steps that are none": lambda m: m["position"].update(done=10**9),
    "another step": lambda m: m["position"].update(step=0),
    "no numbers": lambda m: m.update(numbers={}),
    "a list of numbers": lambda m: m.update(numbers=[]),
    "a word for the best": lambda m: m["numbers"].update(best="abc"),
    "no parts": lambda m: m["numbers"].update(micro_batches=0),
    "a precision that is none": lambda m: m["numbers"].update(precision="int4"),
    "a history of words": lambda m: m["numbers"].update(history=["x"]),
    "a word for a loss": lambda m: m["numbers"]["history"][0].update(train_loss="x"),
    "a ledger of nothing": lambda m: m["numbers"].update(ledger=[{}]),
    "a list of what phases decided": lambda m: m["numbers"].update(decided=[]),
    "a word for what a phase decided": lambda m: m["numbers"].update(decided={"a": "x"}),
    "half of what a phase decided": lambda m: m["numbers"]["decided"]["a"].pop("store"),
    "a word for stored or not": lambda m: m["numbers"]["decided"]["a"].update(stored="yes"),
    "a number for a reason": lambda m: m["numbers"]["decided"]["a"].update(store=1, precision=2),
    "a reason of nothing": lambda m: m["numbers"]["decided"]["a"].update(evil="x"),
    "an identity that is none": lambda m: m.update(identity=[]),
}
TENSORS = {
    "no live tensor": without("live."),
    "no earlier tensor": without("before."),
    "no best tensor": without("best."),
    "no averaged tensor": without("ema."),
    "no step of the optimizer": without("optimizer.step."),
    "no moment of the optimizer": without("optimizer.exp_avg."),
    "no losses": without("epoch."),
    "one value for a live tensor": flat("live."),
    "one value for the best": flat("best."),
    "one value for an average": flat("ema."),
    "one value for a moment": flat("optimizer.exp_avg_sq."),
    "no loss of a validation row": without("judged.best"),
    "one value for those losses": lambda found: found.update({"judged.last": torch.zeros(1).double()}),
    "single precision for those losses": lambda found: found.update({"judged.best": torch.zeros(24)}),
    "losses of others": lambda found: found.update({"judged.evil": torch.zeros(24).double()}),
    "an unknown tensor": lambda found: found.update({"live.evil": torch.zeros(1)}),
    "an unknown parameter": lambda found: found.update({"optimizer.step.evil": torch.zeros(())}),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_of_another_training_is_a_sentence(train, stopped, tmp_path, change):
    folder = shutil.copytree(stopped, tmp_path / "checkpoints" / stopped.name)
    sealed(folder, change)
    refused(train, tmp_path)


def test_a_checkpoint_that_does_not_say_why_its_phase_decided_is_gone_on_with(train, stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "checkpoints" / stopped.name)
    sealed(folder, lambda manifest: manifest["numbers"].pop("decided"))
    result, _ = train(tmp_path, resume=True)
    assert result.decided["a"].precision == "Phase a computes in fp32, as before."


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_tensors_of_another_training_are_a_sentence(train, stopped, tmp_path, change):
    folder = shutil.copytree(stopped, tmp_path / "checkpoints" / stopped.name)
    tensors = load_file(folder / "tensors.safetensors")
    change(tensors)
    save_file(tensors, folder / "tensors.safetensors")
    sealed(folder, lambda manifest: None)
    refused(train, tmp_path)


@pytest.mark.parametrize("content", [b"", b"x" * 100], ids=["empty", "noise"])
def test_what_is_no_safetensors_is_a_sentence(train, stopped, tmp_path, content):
    folder = shutil.copytree(stopped, tmp_path / "checkpoints" / stopped.name)
    (folder / "tensors.safetensors").write_bytes(content)
    sealed(folder, lambda manifest: None)
    refused(train, tmp_path)


def test_one_that_is_only_sealed_again_goes_on(train, stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "checkpoints" / stopped.name)
    sealed(folder, lambda manifest: None)
    result, _ = train(tmp_path, resume=True)
    assert len(result.history) == 3


def refused(train, folder):
    with pytest.raises(RequestError, match=r"^--resume: the checkpoint .* Remove that folder to go on from"):
        train(folder, resume=True)
