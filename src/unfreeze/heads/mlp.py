"""The classic head on stored features: Dropout → Linear(256) → ReLU → Dropout → Linear(classes)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.heads.design import Design, make_design
from unfreeze.heads.folds import ALWAYS_TRAINED
from unfreeze.heads.head import HIDDEN, Head
from unfreeze.heads.problem import make_folds
from unfreeze.heads.weights import row_log_loss, row_weights

# A choice each; the linear head is the default, and is solved to convergence.
DROPOUT = 0.2
RATE = 1e-3
WEIGHT_DECAY = 1e-2
MOST_EPOCHS = 50
PATIENCE = 5
LEAST_BATCH, GREATEST_BATCH = 16, 256


@dataclass(frozen=True, eq=False)
class MlpFit:
    """The head fitted on all rows for ``epochs`` epochs, and out-of-fold logits (rows, classes)."""

    head: Head
    oof_logits: NDArray[np.float32]
    epochs: int
    weight_decay: float


def fit_mlp(
    features: NDArray[np.float32],
    y: NDArray[np.intp],
    *,
    boundary: int,
    assigned: NDArray[np.intp],
    classes: int,
    balanced: bool,
    seed: int,
) -> MlpFit:
    """The classic head on features (rows, width); the same bits for the same seed and number of threads.

    One network a fold is trained side by side, each on the statistics of its own rows. Training stops when
    the log-loss of all held-out rows has not fallen for ``PATIENCE`` epochs, and the head for all rows is
    trained for the best number of epochs: one number is chosen out of fold, as a linear head's penalty is.
    ``assigned``: the fold that holds each row out (see ``assign_folds``). Optimiser: AdamW, with torch's
    default decay.
    """
    design = make_design([features], name=f"boundary {boundary}")
    folds = int(assigned.max()) + 1
    held = assigned[:, None] == np.arange(folds)
    networks = [
        _Network(design, y, ~held[:, fold], classes=classes, balanced=balanced, seed=(seed, fold))
        for fold in range(folds)
    ]
    scored = np.flatnonzero(assigned != ALWAYS_TRAINED)
    weight = row_weights(y[scored], balanced=balanced)
    best_loss, best_epochs = np.inf, 0
    best_logits = np.zeros((len(y), classes), dtype=np.float32)
    for epoch in range(1, MOST_EPOCHS + 1):
        logits = np.zeros((len(y), classes), dtype=np.float32)
        for fold, network in enumerate(networks):
            network.train_epoch()
            predicted = network.logits()
            logits[held[:, fold]] = predicted[held[:, fold]]
            logits[assigned == ALWAYS_TRAINED] += predicted[assigned == ALWAYS_TRAINED] / folds
        loss = float(row_log_loss(logits[scored], y[scored]) @ weight)
        if loss < best_loss:
            best_loss, best_epochs, best_logits = loss, epoch, logits
        if epoch - best_epochs >= PATIENCE:
            break
    everything = np.ones(len(y), dtype=bool)
    network = _Network(design, y, everything, classes=classes, balanced=balanced, seed=(seed, folds))
    for _ in range(best_epochs):
        network.train_epoch()
    return MlpFit(network.head(boundary), best_logits, best_epochs, WEIGHT_DECAY)


class _Network:
    """One network with its optimiser, its random stream and its standardisation."""

    def __init__(
        self,
        design: Design,
        y: NDArray[np.intp],
        train: NDArray[np.bool_],
        *,
        classes: int,
        balanced: bool,
        seed: tuple[int, int],
    ) -> None:
        part = make_folds(design, y, train[:, None], classes=classes, balanced=False)
        self.design, self.scale, self.shift = design, part.scale[:, 0], part.shift[:, 0]
        self.rows = torch.from_numpy(np.flatnonzero(train))
        self.target = torch.from_numpy(y)
        weight = np.zeros(len(y))
        weight[train] = row_weights(y[train], balanced=balanced) * int(train.sum())
        self.weight = torch.from_numpy(weight.astype(np.float32))
        self.batch = int(np.clip(len(self.rows) // 32, LEAST_BATCH, GREATEST_BATCH))
        mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self.random = torch.Generator().manual_seed(mixed)
        self.parameters = [
            *self._linear(design.width, HIDDEN),
            *self._linear(HIDDEN, classes),
        ]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def _linear(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """Weight and bias as ``torch.nn.Linear`` draws them, from this network's own stream."""
        bound = inputs**-0.5
        weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=self.random)
        bias = torch.empty(outputs).uniform_(-bound, bound, generator=self.random)
        return weight.requires_grad_(), bias.requires_grad_()

    def _drop(self, values: Tensor) -> Tensor:
        keep = torch.rand(values.shape, generator=self.random) >= DROPOUT
        return values * keep / (1 - DROPOUT)

    def _standard(self, rows: Tensor) -> Tensor:
        return self.design.rows[rows, :-1] * self.scale - self.shift

    def train_epoch(self) -> None:
        """One pass over the training rows in a fresh order."""
        hidden_weight, hidden_bias, weight, bias = self.parameters
        order = self.rows[torch.randperm(len(self.rows), generator=self.random)]
        for rows in torch.split(order, self.batch):
            hidden = torch.relu(self._drop(self._standard(rows)) @ hidden_weight.T + hidden_bias)
            logits = self._drop(hidden) @ weight.T + bias
            losses = torch.nn.functional.cross_entropy(logits, self.target[rows], reduction="none")
            self.optimizer.zero_grad()
            (losses * self.weight[rows]).mean().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def logits(self) -> NDArray[np.float32]:
        """Logits (rows, classes) of all rows of the design, without dropout."""
        hidden_weight, hidden_bias, weight, bias = self.parameters
        with torch.inference_mode():
            parts = [
                torch.relu(self._standard(rows) @ hidden_weight.T + hidden_bias) @ weight.T + bias
                for rows in torch.split(torch.arange(len(self.target)), 4096)
            ]
            return np.asarray(torch.cat(parts).numpy())

    def head(self, boundary: int) -> Head:
        """The network as a head that reads raw features."""
        hidden_weight, hidden_bias, weight, bias = (value.detach().double() for value in self.parameters)
        inverse = torch.from_numpy(self.design.inverse)
        folded = hidden_weight * self.scale * inverse
        offset = (
            hidden_bias - hidden_weight @ self.shift.double() - folded @ torch.from_numpy(self.design.mean)
        )
        tensors = {"hidden.weight": folded, "hidden.bias": offset, "weight": weight, "bias": bias}
        return Head(
            kind="mlp",
            boundaries=(boundary,),
            tensors={name: value.float().numpy() for name, value in tensors.items()},
        )
