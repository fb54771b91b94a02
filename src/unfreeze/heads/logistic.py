"""Multinomial logistic regression, many candidates in one batch, solved to convergence.

For a fold with training weights w (sum one) and a penalty λ the solution minimises

    sum_i w_i · cross-entropy_i + λ/2 · ||W||²

over the weights W of features standardised with the fold's own training rows; the bias is free. Two classes
are one column of log-odds. In scikit-learn's terms C = 1 / (λ · rows) without class weights.

All candidates (folds × penalties) share one matrix product forward and one backward a step: a fold's
standardisation is a diagonal correction of the common one. Each candidate runs L-BFGS (Liu and Nocedal
1989) that starts from the inverse of the common spectrum, with a line search of its own. Along a direction
the logits are linear, so the search costs no matrix product; and as the objective is convex, its slope
alone decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.heads.design import Design
from unfreeze.heads.problem import Folds, Problem

MEMORY = 8
SEARCH_ROUNDS = 12
SLOPE_KEPT = 0.3

Correction = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Solution:
    """Solved candidates: ``logits`` float32 (rows, candidates, classes) for all rows, held out or not.

    ``weight`` float64 (width, candidates, classes) and ``bias`` (candidates, classes) read raw features.
    ``theta`` (width + 1, candidates, columns): the parameters as the solver has them, to start others from.
    ``steps``: how many steps the slowest candidate took; ``converged`` (candidates,).
    """

    logits: NDArray[np.float32]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    theta: Tensor
    converged: NDArray[np.bool_]
    steps: int


def solve(
    design: Design,
    y: NDArray[np.intp],
    folds: Folds,
    *,
    fold: NDArray[np.intp],
    penalty: NDArray[np.float64],
    tolerance: float = 1e-9,
    most_steps: int = 300,
    start: Tensor | None = None,
) -> Solution:
    """The solutions of the candidates (``fold[i]``, ``penalty[i]``).

    ``start``: the ``theta`` of a solution for the same folds with penalties not far away (default: class frequencies).
    ``tolerance`` bounds gᵀH⁻¹g in nats, about twice the distance of the objective from its minimum; in float32 it comes
    down to a few 1e-10, and no further however many steps are taken.
    """
    with torch.inference_mode():
        problem = Problem.of(design, y, folds, fold=fold, penalty=penalty)
        begin = problem.start() if start is None else (start, problem.forward(start))
        theta, logits, converged, steps = _minimise(
            problem, *begin, tolerance=tolerance, most_steps=most_steps
        )
        return _in_raw_features(design, folds, fold, theta, logits, converged=converged, steps=steps)


def _minimise(
    problem: Problem, theta: Tensor, logits: Tensor, *, tolerance: float, most_steps: int
) -> tuple[Tensor, Tensor, NDArray[np.bool_], int]:
    """Parameters, logits, which candidates converged, and the number of steps; from the given ones on."""
    final_theta, final_logits = theta.clone(), logits.clone()
    active = torch.arange(theta.shape[1])
    converged = np.zeros(len(active), dtype=bool)
    gradient = problem.gradient(problem.residual(logits), theta)
    memory: list[Correction] = []
    for steps in range(most_steps + 1):
        precondition = problem.preconditioner(logits)
        done = _dot(gradient, precondition(gradient)) <= tolerance
        converged[active[done].numpy()] = True
        if bool(done.all()) or steps == most_steps:
            break
        if 4 * int(done.sum()) >= len(active):
            # Those that are done leave the batch, a quarter at a time: shrinking it copies everything.
            keep = ~done
            final_theta[:, active[done]], final_logits[:, active[done]] = theta[:, done], logits[:, done]
            active, problem = active[keep], problem.select(keep)
            theta, logits, gradient = theta[:, keep], logits[:, keep], gradient[:, keep]
            memory = [(step[:, keep], change[:, keep], inverse[keep]) for step, change, inverse in memory]
            precondition = problem.preconditioner(logits)
        direction = _direction(gradient, memory, precondition)
        change = problem.forward(direction)
        length, residual = _search(problem, theta, logits, direction, change, slope=_dot(gradient, direction))
        step = direction * length[:, None]
        theta, logits = theta + step, logits + change * length[:, None]
        previous, gradient = gradient, problem.gradient(residual, theta)
        difference = gradient - previous
        product = _dot(step, difference)
        inverse = torch.where(product > 0, 1.0 / product.clamp(min=1e-30), 0.0)
        memory = [*memory[1 - MEMORY :], (step, difference, inverse)]
    final_theta[:, active], final_logits[:, active] = theta, logits
    return final_theta, final_logits, converged, steps


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of each candidate's parameters, (candidates,)."""
    return (left * right).sum((0, 2))


def _direction(
    gradient: Tensor, memory: list[Correction], precondition: Callable[[Tensor], Tensor]
) -> Tensor:
    """The descent direction of L-BFGS (two-loop recursion)."""
    direction = gradient.clone()
    factors = []
    for step, difference, inverse in reversed(memory):
        factor = inverse * _dot(step, direction)
        direction -= factor[:, None] * difference
        factors.append(factor)
    direction = precondition(direction)
    for (step, difference, inverse), factor in zip(memory, reversed(factors), strict=True):
        direction += (factor - inverse * _dot(difference, direction))[:, None] * step
    return direction.neg_()


def _search(
    problem: Problem, theta: Tensor, logits: Tensor, direction: Tensor, change: Tensor, *, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Step lengths (candidates,) and the residual there.

    The slope along a direction only grows, from negative to positive. The search keeps a bracket around its
    zero and moves by the secant, until the slope is a small share of the first one.
    """
    linear = problem.penalty * (theta[:-1] * direction[:-1]).sum((0, 2))
    quadratic = problem.penalty * direction[:-1].square().sum((0, 2))
    low, low_slope = torch.zeros_like(slope), slope
    high, high_slope = torch.full_like(slope, torch.inf), torch.full_like(slope, torch.inf)
    length = torch.ones_like(slope)
    for _ in range(SEARCH_ROUNDS):
        residual = problem.residual(logits + change * length[:, None])
        here = (residual * change).sum((0, 2)) + linear + quadratic * length
        good = here.abs() <= SLOPE_KEPT * slope.abs()
        if bool(good.all()):
            return length, residual
        below = here < 0
        low, low_slope = torch.where(below, length, low), torch.where(below, here, low_slope)
        high, high_slope = torch.where(below, high, length), torch.where(below, high_slope, here)
        further = length * (slope / (slope - here)).clamp(1.2, 4.0)
        share = (low_slope / (low_slope - high_slope)).clamp(0.1, 0.9)
        between = low + share * (high - low)
        length = torch.where(good, length, torch.where(torch.isinf(high), further, between))
    # Up to the lower end of the bracket the slope is negative throughout: a safe step.
    length = torch.where(good, length, low)
    return length, problem.residual(logits + change * length[:, None])


def _in_raw_features(
    design: Design,
    folds: Folds,
    fold: NDArray[np.intp],
    theta: Tensor,
    logits: Tensor,
    *,
    converged: NDArray[np.bool_],
    steps: int,
) -> Solution:
    """The solution for raw features and all classes.

    A class without training rows gets no weights, and a bias as if it had been seen less than once.
    """
    index = torch.from_numpy(fold)
    weight = theta[:-1].double()
    bias = theta[-1].double() - (folds.shift[:, index, None] * weight).sum(0)
    weight = weight * folds.scale[:, index, None] * torch.from_numpy(design.inverse)[:, None, None]
    bias = bias - (weight * torch.from_numpy(design.mean)[:, None, None]).sum(0)
    present, rare = folds.present[index].float(), (folds.count[index, None] + 1).log()
    if theta.shape[2] == 1:
        only = (present[:, 1:] - present[:, :1]) * rare
        half = torch.tensor([-0.5, 0.5])
        weight, bias, logits = weight * half, (bias + only) * half, (logits + only) * half
    else:
        typical = (theta[-1] * present).sum(1, keepdim=True) / present.sum(1, keepdim=True)
        absent = (typical - rare) * (1 - present)
        bias, logits = bias + absent, logits + absent
    return Solution(
        logits=logits.numpy(),
        weight=weight.numpy(),
        bias=bias.numpy(),
        theta=theta,
        converged=converged,
        steps=steps,
    )
