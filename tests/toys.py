"""Tiny networks to train, rows that they can learn, and the pieces that a training is put together from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unfreeze.contracts import Stage, State
from unfreeze.engine.fit import Rows, Task, fit
from unfreeze.engine.inputs import ImageInputs, TextInputs
from unfreeze.engine.storing import StoringMaker
from unfreeze.executors.torch_ import TorchExecutor
from unfreeze.heads.module import LinearHead
from unfreeze.plan import Lora, Phase, Plan, Thaw
from unfreeze.progress import Silent

SIDE = 8
KINDS = ("cnn", "vit", "text")
CPU = torch.device("cpu")


class Conv(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        self.dropout = nn.Dropout(0.1)

    def forward(self, h):
        return self.dropout(torch.relu(self.norm(self.conv(h))))


class Block(nn.Module):
    """A transformer block with one head."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, h, mask=None):
        q, k, v = self.qkv(self.norm1(h)).chunk(3, dim=-1)
        keep = None if mask is None else mask[:, None, :]
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        h = h + self.dropout(self.proj(mixed))
        return h + self.dropout(self.fc2(functional.gelu(self.fc1(self.norm2(h)))))


class Net(nn.Module):
    """Parts by name, one a stage; ``pos`` is a table beside them that belongs to the first stage."""

    def __init__(self, parts, pos=None):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        if pos is not None:
            self.pos = nn.Parameter(pos)


@dataclass(eq=False)
class Toy:
    """A backbone of stages; ``kind`` says how a state passes them."""

    kind: str
    module: nn.Module
    names: tuple
    family: str
    modality: str
    dim: int
    name: str = "toy"
    notes: tuple = ()
    recipe: dict = field(default_factory=dict)
    assets: dict = field(default_factory=dict)
    preprocess: object = None
    weights_hash: str = "toy"

    @property
    def stages(self):
        return tuple(
            Stage(
                name,
                tuple(
                    tensor
                    for tensor in self.module.state_dict()
                    if tensor.startswith(f"{name}.") or (tensor == "pos" and name == self.names[0])
                ),
            )
            for name in self.names
        )

    @property
    def blocks(self):
        return tuple(name for name in self.names if name.startswith("block")) if self.kind != "cnn" else ()

    def run(self, state, start=0, stop=None):
        h, mask = state.h, state.mask
        for stage in range(start, len(self.names) if stop is None else stop):
            h, mask = self._pass(stage, h, mask)
        return State(h, mask)

    def _pass(self, stage, h, mask):
        part = getattr(self.module, self.names[stage])
        if self.names[stage] == "pool":
            if self.kind == "cnn":
                return h.mean(dim=(2, 3)), None
            h = part(h)
            if mask is None:
                return h.mean(dim=1), None
            share = mask.unsqueeze(-1).float()
            return (h * share).sum(1) / share.sum(1), None
        if stage == 0 and self.kind == "cnn":
            return part(h.permute(0, 3, 1, 2).float() / 127.5 - 1), None
        if stage == 0 and self.kind == "vit":
            patches = (h.float() / 127.5 - 1).unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).flatten(1, 2)
            return part(patches.flatten(2)) + self.module.pos, None
        if stage == 0:
            return part(h) + self.module.pos[: h.shape[1]], mask
        return (part(h), None) if self.kind == "cnn" else (part(h, mask), mask)

    def summary(self, state, boundary):
        return state.h.flatten(1)


class Telling:
    """Keeps what a training reports."""

    def __init__(self):
        self.told = []

    def say(self, sentence):
        self.told.append(sentence)

    def count(self, what, done, total):
        pass


def toy(kind, seed=0):
    torch.manual_seed(seed)
    if kind == "cnn":
        parts = {"stem": Conv(3, 4), "block1": Conv(4, 6), "block2": Conv(6, 8), "pool": nn.Identity()}
        net, family, modality = Net(parts), "resnet", "image"
        for part in (net.stem, net.block1, net.block2):
            part.norm.running_mean.uniform_(-0.1, 0.1)
            part.norm.running_var.uniform_(0.5, 1.5)
    else:
        text = kind == "text"
        first = nn.Embedding(30, 8) if text else nn.Linear(48, 8)
        blocks = {f"block{index}": Block(8) for index in (1, 2, 3)}
        parts = {"embed": first, **blocks, "pool": nn.LayerNorm(8)}
        net = Net(parts, torch.randn(18 if text else 4, 8) * 0.1)
        family, modality = ("encoder", "text") if text else ("vit", "image")
    return Toy(kind, net.eval(), tuple(parts), family, modality, 8)


def rows_of(kind, count, seed, *, augment="none", token_dropout=0.0):
    """Rows of two classes that differ in brightness, or in the words that they use."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    keys = rng.integers(0, 2**63, count).astype(np.uint64)
    if kind == "text":
        ids = [rng.integers(1 + 12 * c, 18 + 12 * c, rng.integers(3, 19)).astype(np.int64) for c in y]
        return Rows(TextInputs(ids, keys, 0, 5, CPU, token_dropout), y)
    squares = rng.integers(0, 190, (count, SIDE, SIDE, 3)) + 60 * y[:, None, None, None]
    return Rows(ImageInputs(squares.astype(np.uint8), keys, augment, 5, CPU), y)


def task_of(kind, *, train=38, val=24, seed=3, augment="none", token_dropout=0.0, **settings):
    return Task(
        train=rows_of(kind, train, 1, augment=augment, token_dropout=token_dropout),
        val=rows_of(kind, val, 2) if val else None,
        seed=seed,
        checkpoint_seconds=0.0,
        device=CPU,
        **settings,
    )


def misled(task):
    """The task with the other class for every training row: what is learned is wrong on the validation rows."""
    return replace(task, train=Rows(task.train.inputs, 1 - task.train.y))


def head_of(backbone, classes=2):
    head = LinearHead(backbone.dim, classes, dropout=0.0)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    return head


def maker(backbone, task, folder=Path("unused"), **settings):
    """The frozen part is run every time, unless ``use`` says otherwise."""

    def build(keep):
        return TorchExecutor(backbone, precision="fp32", boundaries=(), keep=keep)

    given = {"views": 3, "batch_size": 8, "use": "off", "budget": 10**9, "augmented": False, "half": False}
    return StoringMaker(backbone=backbone, task=task, build=build, folder=folder, **(given | settings))


def plan_of(backbone, *, freeze=1, epochs=2, rate=1e-2, phase=None, **settings):
    """A plan of one phase that trains the head and all stages from ``freeze`` on."""
    owned = [index for index, stage in enumerate(backbone.stages) if stage.tensors and index >= freeze]
    made = Phase(
        name="only", epochs=epochs, thaw=tuple(Thaw(i, "weights", rate) for i in owned), head_rate=rate
    )
    return Plan(strategy="own", phases=(replace(made, **(phase or {})),), **({"batch_size": 8} | settings))


def run(plan, backbone, task, *, head=None, prefix=None, progress=None, **settings):
    head = head_of(backbone) if head is None else head
    result = fit(
        plan,
        backbone=backbone,
        head=head,
        task=task,
        prefix=maker(backbone, task) if prefix is None else prefix,
        progress=Silent() if progress is None else progress,
        **settings,
    )
    return result, head


def tensors_of(backbone, head=None):
    found = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    if head is not None:
        found |= {f"head:{name}": tensor.clone() for name, tensor in head.state_dict().items()}
    return found


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def attach_graft(backbone, graft, seed=0):
    """What ``unfreeze.grafts.attach`` does; a toy's stages list what is grafted of themselves."""
    from unfreeze.grafts import attach
    from unfreeze.grafts.adapters import add_adapter

    if graft is None or isinstance(graft, Lora):
        return backbone if graft is None else attach(backbone, graft, seed=seed)
    torch.manual_seed(seed)
    for path in graft.blocks:
        add_adapter(backbone.module.get_submodule(path), graft)
    return backbone
