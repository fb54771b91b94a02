"""The HTTP interface: tasks, predictions, explanations, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from starlette.middleware.trustedhost import TrustedHostMiddleware

from unfreeze.errors import UnfreezeError
from unfreeze.explaining import as_png, draw_heat, explain_image, explain_text
from unfreeze.model import Model
from unfreeze.runtime.decode import BadImage
from unfreeze.runtime.predictions import Prediction
from unfreeze.serving.batching import ClosedError, OverloadedError
from unfreeze.serving.documents import BODY, ERRORS, SERVED
from unfreeze.serving.hosting import Host
from unfreeze.serving.inputs import Asked, read_request
from unfreeze.serving.meters import CONTENT_TYPE, Meters
from unfreeze.serving.tasks import Registry, Task

# Nothing on a page may come from elsewhere; styles and scripts stand in the pages themselves.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report holds names from the data: no script of it may run with the server's address.
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# How many explanations are computed at a time: each takes as much as dozens of answers.
EXPLAINERS = 1


@dataclass(frozen=True, kw_only=True)
class Access:
    """``token``: who may ask at all, None for everyone. ``changes``: below this folder runs may be loaded, or None.

    ``hosts``: the names that a request may call the server by, None for any. A page from elsewhere whose name is made
    to point at this machine (DNS rebinding) calls it by another one.
    """

    token: str | None = None
    changes: Path | None = None
    hosts: tuple[str, ...] | None = None


class NewTask(BaseModel):
    """The run to serve under a name."""

    model_config = ConfigDict(extra="forbid")

    run: str


def make_app(registry: Registry, meters: Meters, access: Access) -> FastAPI:
    """The application over the tasks of ``registry``, which is closed with it."""
    return _Service(registry, meters, access).app()


class _Service:
    def __init__(self, registry: Registry, meters: Meters, access: Access) -> None:
        self._registry, self._meters, self._access = registry, meters, access
        self._explaining = asyncio.Semaphore(EXPLAINERS)
        self._stopping = False
        self._page = _read("unfreeze.serving", "page.html").replace(
            "/*style*/", _read("unfreeze.report", "templates/style.css")
        )
        meters.watch(lambda: sum(host.waiting for host in registry.hosts), lambda: len(registry.tasks))

    def app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield
            self._stopping = True
            await run_in_threadpool(self._registry.close)

        app = FastAPI(
            title="Unfreeze", summary="Classifiers on shared networks.", lifespan=lifespan, redoc_url=None
        )
        app.middleware("http")(_headers)
        if self._access.hosts is not None:
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(self._access.hosts))
        guarded: dict[str, Any] = {"dependencies": [Depends(self._allowed)], "responses": ERRORS}
        body: dict[str, Any] = guarded | {"openapi_extra": BODY}
        app.get("/", response_class=HTMLResponse, include_in_schema=False)(self.page)
        app.get("/livez")(self.alive)
        app.get("/readyz", responses={503: {"description": "Not ready."}})(self.ready)
        app.get("/metrics", response_class=Response, **guarded)(self.metrics)
        app.get("/v1/tasks", **guarded)(self.tasks)
        app.get("/v1/tasks/{task}/report", response_class=FileResponse, **guarded)(self.report)
        app.post("/v1/tasks/{task}/predict", **body)(self.predict)
        app.post("/v1/tasks/{task}/explain", **body)(self.explain)
        app.post("/v1/predict", **body)(self.predict_several)
        app.put("/v1/tasks/{task}", **guarded)(self.load)
        app.delete("/v1/tasks/{task}", status_code=204, **guarded)(self.unload)
        return app

    # -- health

    async def page(self) -> HTMLResponse:
        """The page to try the tasks with."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": PAGE_POLICY})

    async def alive(self) -> dict[str, str]:
        """That the process answers."""
        return {"status": "alive"}

    async def ready(self) -> dict[str, str]:
        """That every task has given its golden answers here: one that does not is never served."""
        if self._stopping or not self._registry.tasks:
            raise HTTPException(
                503, "The server is stopping." if self._stopping else "There is no task to serve."
            )
        return {"status": "ready"}

    async def metrics(self) -> Response:
        """Counts and times in Prometheus' form."""
        return Response(self._meters.text(), media_type=CONTENT_TYPE)

    # -- tasks

    async def tasks(self) -> dict[str, list[dict[str, Any]]]:
        """What is served, and from what."""
        return {"tasks": [_describe(task) for task in self._registry.tasks.values()]}

    async def report(self, task: str) -> FileResponse:
        """The report of the task's training."""
        file = self._task(task).folder / "report.html"
        if not file.is_file():
            raise HTTPException(404, f"The run of the task {task!r} has no report.")
        return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    async def load(self, task: str, new: NewTask) -> dict[str, Any]:
        """Serve a run under this name, in place of what had it before."""
        folder = self._changeable(new.run)
        try:
            return _describe(await run_in_threadpool(self._registry.put, task, folder))
        except UnfreezeError as problem:
            raise HTTPException(422, str(problem)) from None

    async def unload(self, task: str) -> Response:
        """Serve the task no longer."""
        self._changeable("")
        try:
            await run_in_threadpool(self._registry.remove, task)
        except KeyError:
            raise _unknown(task, self._registry) from None
        return Response(status_code=204)

    def _changeable(self, run: str) -> Path:
        """The folder of a run that may be loaded."""
        root = self._access.changes
        if root is None:
            raise HTTPException(
                403, "Tasks cannot be changed here: the server was started without --allow-changes."
            )
        folder = (root / run).resolve() if "\0" not in run else root
        if run and (folder == root.resolve() or not folder.is_relative_to(root.resolve())):
            raise HTTPException(403, "The run lies outside the folder that runs may be loaded from.")
        return folder

    # -- answers

    async def predict(self, task: str, request: Request) -> dict[str, Any]:
        """The answers of one task, in the order of the inputs."""
        began, status, unread = time.perf_counter(), 500, 0
        found = self._task(task)
        try:
            asked = await read_request(request, self._registry.limits)
            answers = await self._answers(found.host, (found,), asked)
            unread = sum(answer["error"] is not None for answer in answers[task])
            status = 200
            return _head(found) | {"predictions": answers[task]}
        except HTTPException as problem:
            status = problem.status_code
            raise
        finally:
            self._meters.answered(task, status, time.perf_counter() - began, unread=unread)

    async def predict_several(self, request: Request) -> dict[str, Any]:
        """The answers of several tasks about the same inputs; tasks on one network compute it once."""
        asked = await read_request(request, self._registry.limits)
        if not asked.tasks:
            raise HTTPException(422, "Name at least one task in the field 'tasks'.")
        tasks = [self._task(name) for name in dict.fromkeys(asked.tasks)]
        groups: dict[int, list[Task]] = {}
        for task in tasks:
            groups.setdefault(id(task.host), []).append(task)
        began, status = time.perf_counter(), 500
        try:
            parts = await asyncio.gather(
                *(self._answers(group[0].host, tuple(group), asked) for group in groups.values())
            )
            status = 200
        except HTTPException as problem:
            status = problem.status_code
            raise
        finally:
            for task in tasks:
                self._meters.answered(task.name, status, time.perf_counter() - began)
        found = {name: rows for part in parts for name, rows in part.items()}
        return {"answers": [_head(task) | {"predictions": found[task.name]} for task in tasks]}

    async def explain(self, task: str, request: Request) -> dict[str, Any]:
        """Why the first input is answered as it is: a picture to lay over it, or its words with weights in -1..1."""
        found = self._task(task)
        asked = await read_request(request, self._registry.limits)
        (answer,) = (await self._answers(found.host, (found,), Asked(asked.inputs[:1], (), asked.top_k)))[
            task
        ]
        if answer["error"] is not None:
            raise HTTPException(422, f"The input cannot be read: {answer['error']}.")
        async with self._explaining:
            parts = await run_in_threadpool(_explain, found, asked.inputs[0][1], answer["label"])
        return _head(found) | {"prediction": answer} | parts

    async def _answers(
        self, host: Host, tasks: Sequence[Task], asked: Asked
    ) -> dict[str, list[dict[str, Any]]]:
        """One list of answers for each task; an input that cannot be read has an error and no label."""
        wanted = "image" if host.backbone.modality == "image" else "text"
        if any(isinstance(raw, str) == (wanted == "image") for _, raw in asked.inputs):
            raise HTTPException(422, f"The task {tasks[0].name!r} reads {wanted}s: send {wanted}s.")
        try:
            with host.admit(len(asked.inputs)):
                return await self._compute(host, tasks, asked)
        except OverloadedError as problem:
            raise HTTPException(429, str(problem), headers={"Retry-After": "1"}) from None
        except ClosedError as problem:
            raise HTTPException(503, str(problem)) from None

    async def _compute(
        self, host: Host, tasks: Sequence[Task], asked: Asked
    ) -> dict[str, list[dict[str, Any]]]:
        prepared = await run_in_threadpool(_prepare, host, asked.inputs)
        readable = {place: value for place, value in enumerate(prepared) if not isinstance(value, str)}
        if not readable:
            name, reason = asked.inputs[0][0], prepared[0]
            raise HTTPException(422, f"None of the inputs can be read: {name} {reason}.")
        futures = host.submit(
            list(readable.values()),
            tuple(task.name for task in tasks),
            seconds=self._registry.limits.seconds,
        )
        found = dict(zip(readable, await self._wait(futures), strict=True))
        for task in tasks:
            if any(task.name not in answer for answer in found.values()):
                raise HTTPException(404, f"The task {task.name!r} was removed.")
        return {
            task.name: [
                _row(task, name, found[place].get(task.name), prepared[place], asked.top_k)
                if place in found
                else _unread(name, str(prepared[place]))
                for place, (name, _) in enumerate(asked.inputs)
            ]
            for task in tasks
        }

    async def _wait(
        self, futures: Sequence[Future[dict[str, NDArray[np.float64]]]]
    ) -> list[dict[str, NDArray[np.float64]]]:
        try:
            return await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
        except TimeoutError:
            seconds = self._registry.limits.seconds
            raise HTTPException(503, f"No answer within {seconds:g} seconds: the server is busy.") from None
        except UnfreezeError as problem:
            raise HTTPException(503, str(problem)) from None
        finally:
            for future in futures:
                future.cancel()

    def _task(self, name: str) -> Task:
        task = self._registry.tasks.get(name)
        if task is None:
            raise _unknown(name, self._registry)
        return task

    async def _allowed(self, request: Request) -> None:
        if self._access.token is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._access.token.encode()):
            raise HTTPException(401, "A bearer token is needed.", headers={"WWW-Authenticate": "Bearer"})


async def _headers(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    """What no browser should guess for itself."""
    response = await call(request)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    return response


def _read(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _unknown(name: str, registry: Registry) -> HTTPException:
    known = ", ".join(list(registry.tasks)[:5]) or "none"
    return HTTPException(404, f"There is no task {name[:80]!r}; served are: {known}.")


def _head(task: Task) -> dict[str, Any]:
    """What every answer names: the hashes of the run and of its network."""
    return {"task": task.name, "run": task.run, "base": task.base}


def _describe(task: Task) -> dict[str, Any]:
    threshold = task.classifier.threshold
    return _head(task) | {
        "modality": task.bundle.modality,
        "labels": list(task.bundle.labels),
        "backbone": task.bundle.backbone.name,
        "strategy": task.bundle.strategy,
        "executor": task.host.executor,
        "threshold": None if threshold is None else threshold.probability,
        "test": {
            name: task.scores[name] for name in SERVED if isinstance(task.scores.get(name), int | float)
        },
    }


def _prepare(host: Host, inputs: Sequence[tuple[str, bytes | str]]) -> list[NDArray[Any] | str]:
    """What the network reads of each input, or why it cannot."""
    found: list[NDArray[Any] | str] = []
    for _, raw in inputs:
        try:
            found.append(host.prepare(raw))
        except BadImage as problem:
            found.append(str(problem))
    return found


def _row(
    task: Task, name: str, probabilities: NDArray[np.float64] | None, prepared: object, top_k: int
) -> dict[str, Any]:
    assert probabilities is not None
    if not np.isfinite(probabilities).all():
        return _unread(name, "its answer is no number")
    return _plain(Model(task.classifier).answer(name, probabilities, top_k))


def _unread(name: str, reason: str) -> dict[str, Any]:
    return _plain(Prediction.unread(name, reason))


def _plain(prediction: Prediction) -> dict[str, Any]:
    return {
        "input": prediction.input,
        "label": prediction.label,
        "probability": prediction.probability,
        "abstain": prediction.abstain,
        "error": prediction.error,
        "top": [{"label": label, "probability": probability} for label, probability in prediction.top],
    }


def _explain(task: Task, raw: bytes | str, label: str) -> dict[str, Any]:
    classifier = task.classifier
    place = classifier.labels.index(label)
    if isinstance(raw, str):
        try:
            pieces = explain_text(classifier, raw, place)
        except UnfreezeError as problem:
            raise HTTPException(422, str(problem)) from None
        return {"words": [{"text": text, "weight": weight} for text, weight in pieces]}
    pixels = task.host.prepare(raw)
    heat = draw_heat(explain_image(classifier, pixels, place))
    return {"picture": _data_url(as_png(pixels)), "heat": _data_url(heat)}


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
