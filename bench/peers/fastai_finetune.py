"""What a fastai user would write: vision_learner and fine_tune, with the backbone's weights from a file.

    .venv-peers/fastai/bin/python bench/peers/fastai_finetune.py TRAIN.csv TEST.csv WEIGHTS.safetensors

The tables have the columns image and label; the weights are timm's tensors of the backbone without its classifier.
Prints one JSON object. Everything that is not said is fastai's default: a fifth of the rows for validation, its head
of two layers, one frozen epoch and then ``--epochs`` of the whole network, no augmentation beyond what is asked.
``seconds`` run from after the imports to the accuracy on the test rows. Uses nothing of this program.
"""

import argparse
import json
import time
import warnings

# fastai 2.8 still decorates with torch.jit.script, which torch calls deprecated from 2.10 on.
warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)

import fastai  # noqa: E402
import pandas as pd  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from fastai.vision.all import (  # noqa: E402
    Callback,
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from safetensors.torch import load_file  # noqa: E402


class Note(Callback):
    """Seconds and validation accuracy, epoch by epoch."""

    # Behind the recorder, which is at 50.
    order = 60

    def __init__(self, start):
        self.start, self.curve = start, []

    def after_epoch(self):
        self.curve.append([time.perf_counter() - self.start, float(self.recorder.values[-1][-1])])


def main():
    arguments = parse()
    start = time.perf_counter()
    set_seed(arguments.seed)
    train = pd.read_csv(arguments.train)[["image", "label"]]
    test = pd.read_csv(arguments.test)[["image", "label"]]
    learner = make_learner(train, arguments)
    note = Note(start)
    learner.add_cb(note)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(arguments.epochs)
        seconds_fit = time.perf_counter() - start
        loader = learner.dls.test_dl(test, with_labels=True)
        probabilities, y = learner.get_preds(dl=loader)
    right = (probabilities.argmax(dim=1) == y).float().mean()
    result = {
        "seconds": time.perf_counter() - start,
        "seconds_fit": seconds_fit,
        "accuracy": float(right),
        "n": len(y),
        "curve": note.curve,
        "rows": len(learner.dls.train_ds),
        "versions": f"fastai {fastai.__version__}, torch {torch.__version__}, timm {timm.__version__}",
    }
    print(json.dumps(result))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("weights")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm's name")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--augment", action="store_true", help="fastai's aug_transforms, which cost time")
    return parser.parse_args()


def make_learner(train, arguments):
    # With pretrained=False fastai would not normalise, and what the weights were trained with is timm's to know.
    config = timm.get_pretrained_cfg(arguments.backbone)
    batch_transforms = [Normalize.from_stats(config.mean, config.std)]
    if arguments.augment:
        batch_transforms = [*aug_transforms(), *batch_transforms]
    loaders = ImageDataLoaders.from_df(
        train,
        path="/",
        seed=arguments.seed,
        bs=arguments.batch_size,
        item_tfms=Resize(arguments.image_size),
        batch_tfms=batch_transforms,
        device=torch.device(arguments.device),
    )
    learner = vision_learner(loaders, arguments.backbone, pretrained=False, metrics=accuracy)
    learner.model[0].model.load_state_dict(load_file(arguments.weights))
    return learner


if __name__ == "__main__":
    main()
