"""What a user of timm and PyTorch would write: a plain training loop over the whole network, as in their guides.

    python bench/peers/timm_loop.py TRAIN.csv TEST.csv WEIGHTS.safetensors --epochs 5

The tables have the columns image and label; the weights are timm's tensors of the backbone without its classifier.
A new linear layer, AdamW at 3e-4 with a cosine, mirrored pictures, batches of 32, 15 % of the rows for validation,
which choose the epoch that is tested; two loader processes. Prints one JSON object. Uses nothing of this program.
"""

import argparse
import copy
import csv
import json
import os
import time

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import v2


class Table(torch.utils.data.Dataset):
    def __init__(self, rows, labels, transform):
        self.rows, self.labels, self.transform = rows, labels, transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        with Image.open(row["image"]) as image:
            return self.transform(image.convert("RGB")), self.labels.index(row["label"])


def main():
    arguments = parse()
    start = time.perf_counter()
    torch.manual_seed(arguments.seed)
    with open(arguments.train, newline="") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    with open(arguments.test, newline="") as file:  # noqa: PTH123
        test = list(csv.DictReader(file))
    labels = sorted({row["label"] for row in rows})
    device = torch.device(arguments.device)
    order = torch.randperm(len(rows)).tolist()
    held = round(0.15 * len(rows))
    config = timm.get_pretrained_cfg(arguments.backbone)
    plain = [v2.Resize((arguments.image_size, arguments.image_size)), v2.PILToTensor()]
    plain += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config.mean, config.std)]
    varied = v2.Compose([v2.RandomHorizontalFlip(), *plain])
    loaders = {
        "train": loader([rows[place] for place in order[held:]], labels, varied, device, shuffle=True),
        "val": loader([rows[place] for place in order[:held]], labels, v2.Compose(plain), device),
        "test": loader(test, labels, v2.Compose(plain), device),
    }
    model = timm.create_model(arguments.backbone, num_classes=len(labels))
    model.load_state_dict(load_file(arguments.weights), strict=False)
    model.to(device)
    curve, best = [], (-1.0, None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epochs * len(loaders["train"]))
    for _ in range(arguments.epochs):
        model.train()
        for pictures, y in loaders["train"]:
            pictures, y = pictures.to(device, non_blocking=True), y.to(device, non_blocking=True)
            loss = torch.nn.functional.cross_entropy(model(pictures), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        reached = accuracy(model, loaders["val"], device)
        curve.append([time.perf_counter() - start, reached])
        if reached > best[0]:
            best = (reached, copy.deepcopy(model.state_dict()))
    model.load_state_dict(best[1])
    result = {
        "accuracy": accuracy(model, loaders["test"], device),
        "n": len(test),
        "curve": curve,
        "seconds": time.perf_counter() - start,
        "versions": f"torch {torch.__version__}, timm {timm.__version__}",
    }
    print(json.dumps(result))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("weights")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm's name")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def loader(rows, labels, transform, device, *, shuffle=False):
    return torch.utils.data.DataLoader(
        Table(rows, labels, transform),
        batch_size=32,
        shuffle=shuffle,
        num_workers=min(2, os.cpu_count()),
        pin_memory=device.type == "cuda",
    )


@torch.inference_mode()
def accuracy(model, batches, device):
    model.eval()
    right = [(model(pictures.to(device)).argmax(dim=1) == y.to(device)).float() for pictures, y in batches]
    return float(torch.cat(right).mean())


if __name__ == "__main__":
    main()
