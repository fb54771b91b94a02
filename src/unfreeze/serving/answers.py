"""From what a request asks to its answer: probabilities, explanations, and the nearest training rows."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.examples import Examples, carries_examples, read_examples
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.explaining import as_png, draw_heat, explain_image, explain_text
from unfreeze.neighbours import features_of
from unfreeze.runtime.predictions import Prediction
from unfreeze.serving.batching import OverloadedError
from unfreeze.serving.decoding import Decoder, Prepared
from unfreeze.serving.hosting import Host
from unfreeze.serving.inputs import Asked
from unfreeze.serving.tasks import Registry, Task

Row = dict[str, Any]
Result = TypeVar("Result")


class Answers:
    """Answers about the tasks of a registry. HTTPException with a sentence for what cannot be answered."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._limits = registry, registry.limits
        self._decoder = Decoder(registry.limits)
        # One at a time: an explanation takes as much as dozens of answers.
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="explain")

    def close(self) -> None:
        """Stop; what waits is given up."""
        self._slow.shutdown(cancel_futures=True)
        self._decoder.close()

    def check_room(self, host: Host) -> None:
        """Raise HTTPException where no further input would be admitted now, so that it need not be read."""
        with self._admitted(host, 1):
            pass

    async def predict(self, tasks: Sequence[Task], asked: Asked) -> dict[str, list[Row]]:
        """One list of answers for each task, which share a network; an unreadable input has an error and no label."""
        host = tasks[0].host
        _check_kind(tasks[0], asked)
        with self._admitted(host, len(asked.inputs)):
            return await self._computed(tasks, asked, await self._prepared(host, asked))

    async def explain(self, task: Task, asked: Asked) -> dict[str, Any]:
        """The first input's answer as ``prediction``, with ``picture`` and ``heat`` (data URLs) or ``words``."""
        _check_kind(task, asked)
        first = Asked(asked.inputs[:1], (), asked.top_k)
        with self._admitted(task.host, 1):
            (prepared,) = await self._prepared(task.host, first)
            (answer,) = (await self._computed((task,), first, [prepared]))[task.name]
            if answer["error"] is not None:
                raise HTTPException(422, f"The input cannot be answered: {answer['error']}.")
            assert not isinstance(prepared, str)
            raw = first.inputs[0][1]
            parts = await self._slowly(
                lambda: _explain(self._classifier(task), raw, prepared[0], answer["label"])
            )
        return {"prediction": answer} | parts

    async def nearest(self, task: Task, asked: Asked) -> list[Row]:
        """For each input the training rows that the run carries and that its network finds most alike."""
        _check_kind(task, asked)
        # Before anything is decoded; the rows may still go until they are read.
        if not carries_examples(task.folder, task.bundle):
            raise _without_examples(task)
        with self._admitted(task.host, len(asked.inputs)):
            prepared = await self._prepared(task.host, asked)
            values = [value[0] for value in prepared if not isinstance(value, str)]
            found = iter(await self._slowly(lambda: self._look_up(task, values, asked.top_k)))
        return [
            {"input": name, "error": value, "examples": []}
            if isinstance(value, str)
            else {"input": name, "error": None, "examples": next(found)}
            for (name, _), value in zip(asked.inputs, prepared, strict=True)
        ]

    @contextmanager
    def _admitted(self, host: Host, rows: int) -> Iterator[None]:
        try:
            with host.admit(rows):
                yield
        except OverloadedError as problem:
            raise HTTPException(429, str(problem), headers={"Retry-After": "1"}) from None

    async def _prepared(self, host: Host, asked: Asked) -> list[Prepared]:
        try:
            prepared = await self._decoder.prepare(host, [raw for _, raw in asked.inputs])
        except TimeoutError:
            raise HTTPException(
                503,
                f"The inputs were not decoded within {self._limits.seconds:g} seconds: give fewer or smaller ones, or "
                "try again.",
            ) from None
        if all(isinstance(value, str) for value in prepared):
            raise HTTPException(422, f"None of the inputs can be read: {asked.inputs[0][0]} {prepared[0]}.")
        return prepared

    async def _computed(
        self, tasks: Sequence[Task], asked: Asked, prepared: Sequence[Prepared]
    ) -> dict[str, list[Row]]:
        readable = {place: value for place, value in enumerate(prepared) if not isinstance(value, str)}
        try:
            futures = tasks[0].host.submit(
                [value for value, _ in readable.values()],
                tuple(task.name for task in tasks),
                seconds=self._limits.seconds,
            )
            found = dict(zip(readable, await self._wait(futures), strict=True))
        except OverloadedError:
            raise
        except UnfreezeError as problem:
            self._check_present(tasks)
            raise HTTPException(503, _without_folders(problem, tasks)) from None
        self._check_present(tasks)
        return {
            task.name: [
                _row(task, name, found[place][task.name], asked.top_k, cut=readable[place][1])
                if place in found
                else _plain(Prediction.unread(name, str(prepared[place])))
                for place, (name, _) in enumerate(asked.inputs)
            ]
            for task in tasks
        }

    def _classifier(self, task: Task) -> Classifier:
        """The task by itself, as it was when it was asked."""
        try:
            found = task.classifier
        except RequestError as problem:
            self._check_present((task,))
            raise HTTPException(503, _without_folders(problem, (task,))) from None
        self._check_present((task,))
        return found

    def _check_present(self, tasks: Sequence[Task]) -> None:
        """Raise HTTPException for a task that has left or become another run's while it was asked.

        What had its name all the time computed the answer: a classifier that was replaced never comes back.
        """
        for task in tasks:
            if not task.host.serves(task.name, task.source):
                raise HTTPException(404, f"The task {task.name!r} was removed or replaced meanwhile.")

    async def _wait(
        self, futures: Sequence[Future[dict[str, NDArray[np.float64]]]]
    ) -> list[dict[str, NDArray[np.float64]]]:
        try:
            return await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
        except TimeoutError:
            raise self._too_long() from None
        finally:
            for future in futures:
                future.cancel()

    async def _slowly(self, work: Callable[[], Result]) -> Result:
        """What ``work`` gives, when its turn has come."""
        waiting = asyncio.get_running_loop().run_in_executor(self._slow, work)
        try:
            return await asyncio.wait_for(waiting, self._limits.seconds)
        except TimeoutError:
            raise self._too_long() from None

    def _too_long(self) -> HTTPException:
        return HTTPException(503, f"No answer within {self._limits.seconds:g} seconds: the server is busy.")

    def _look_up(self, task: Task, values: Sequence[NDArray[Any]], count: int) -> list[list[Row]]:
        try:
            examples = read_examples(task.folder, task.bundle)
        except RequestError as problem:
            raise HTTPException(404, _without_folders(problem, (task,))) from None
        if examples is None:
            raise _without_examples(task)
        classifier = self._classifier(task)
        rows: list[list[Row]] = []
        for start in range(0, len(values), self._limits.batch):
            features = features_of(classifier, values[start : start + self._limits.batch])
            if features.shape[1] != examples.features.shape[1]:
                raise HTTPException(
                    404, f"The training rows of the task {task.name!r} are another network's."
                )
            rows += [
                [_example(task, examples, place, similar) for place, similar in found]
                for found in examples.nearest(features, count)
            ]
        return rows


def _without_examples(task: Task) -> HTTPException:
    return HTTPException(404, f"The run of the task {task.name!r} carries no training rows.")


def _without_folders(problem: UnfreezeError, tasks: Sequence[Task]) -> str:
    """What is wrong with runs; where they lie is nobody's business over the network."""
    told = str(problem)
    for task in tasks:
        told = told.replace(str(task.folder), f"the run of {task.name!r}")
    return told


def _check_kind(task: Task, asked: Asked) -> None:
    wanted = task.host.backbone.modality
    if any(isinstance(raw, str) == (wanted == "image") for _, raw in asked.inputs):
        raise HTTPException(422, f"The task {task.name!r} reads {wanted}s: send {wanted}s.")


def _row(task: Task, name: str, probabilities: NDArray[np.float64], top_k: int, *, cut: bool) -> Row:
    if not np.isfinite(probabilities).all():
        return _plain(Prediction.unread(name, "its answer is no number"), cut=cut)
    return _plain(task.answer(name, probabilities, top_k), cut=cut)


def _plain(prediction: Prediction, *, cut: bool = False) -> Row:
    return {
        "input": prediction.input,
        "label": prediction.label,
        "probability": prediction.probability,
        "abstain": prediction.abstain,
        "error": prediction.error,
        "cut": cut,
        "top": [{"label": label, "probability": probability} for label, probability in prediction.top],
    }


def _example(task: Task, examples: Examples, place: int, similar: float) -> Row:
    shown = examples.shown[place]
    return {
        "label": task.bundle.labels[int(examples.labels[place])],
        "similarity": similar,
        "name": examples.names[place],
        "picture": _data_url(shown, "jpeg") if isinstance(shown, bytes) else None,
        "text": shown if isinstance(shown, str) else None,
    }


def _explain(classifier: Classifier, raw: bytes | str, prepared: NDArray[Any], label: str) -> dict[str, Any]:
    place = classifier.labels.index(label)
    if isinstance(raw, str):
        try:
            pieces = explain_text(classifier, raw, place)
        except UnfreezeError as problem:
            raise HTTPException(422, str(problem)) from None
        return {"words": [{"text": text, "weight": weight} for text, weight in pieces]}
    heat = draw_heat(explain_image(classifier, prepared, place))
    return {"picture": _data_url(as_png(prepared), "png"), "heat": _data_url(heat, "png")}


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
