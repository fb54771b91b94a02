"""The HTTP interface: tasks, predictions, explanations, health and metrics."""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as PathPart
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException as StarletteError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from unfreeze.bundle.examples import carries_examples
from unfreeze.errors import UnfreezeError
from unfreeze.serving import documents
from unfreeze.serving.answers import Answers
from unfreeze.serving.documents import ANY, BODY, NEW_TASK, REMOVE, SERVED, TASK, answers_with
from unfreeze.serving.guard import Guard
from unfreeze.serving.hosting import Host
from unfreeze.serving.inputs import Asked, Intake
from unfreeze.serving.meters import CONTENT_TYPE, Meters
from unfreeze.serving.pages import PAGE_POLICY, REPORT_POLICY, documentation, front_page
from unfreeze.serving.tasks import Registry, Task

REPORT = "report.html"
TaskName = Annotated[str, PathPart(description="The name of a task.")]


@dataclass(frozen=True, kw_only=True)
class Access:
    """``token``: who may ask at all, None for everyone. ``changes``: below this folder runs may be loaded, or None.

    ``hosts``: the names that a request may call the server by, None for any. A page from elsewhere whose name is made
    to point at this machine (DNS rebinding) calls it by another one.
    """

    token: str | None = None
    changes: Path | None = None
    hosts: tuple[str, ...] | None = None


class Answer(JSONResponse):
    """JSON in ASCII: texts may hold lone surrogates, which have no other form."""

    def render(self, content: Any) -> bytes:
        """See JSONResponse."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def make_app(registry: Registry, meters: Meters, access: Access) -> FastAPI:
    """The application over the tasks of ``registry``, which is closed with it."""
    return _Service(registry, meters, access).app()


class _Service:
    def __init__(self, registry: Registry, meters: Meters, access: Access) -> None:
        self._registry, self._meters, self._access = registry, meters, access
        self._answers, self._intake = Answers(registry), Intake(registry.limits)
        self._stopping = False
        self._page = front_page()
        meters.watch(lambda: sum(host.waiting for host in registry.hosts), lambda: len(registry.tasks))

    def app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield
            self._stopping = True
            await run_in_threadpool(self._registry.close)
            await run_in_threadpool(self._answers.close)

        app = FastAPI(
            title="Unfreeze",
            summary="Classifiers on shared networks.",
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
        )
        app.add_exception_handler(StarletteError, _refused)
        if self._access.hosts is not None:
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(self._access.hosts))
        app.add_middleware(Guard, most=self._registry.limits.body)

        guarded = [Depends(self._allowed)]
        status = answers_with(documents.Status, ())
        app.get("/", response_class=HTMLResponse, include_in_schema=False)(self.page)
        app.get("/docs", response_class=HTMLResponse, include_in_schema=False)(self.docs)
        app.get("/livez", responses=status)(self.alive)
        app.get("/readyz", responses=status | answers_with(None, (503,)))(self.ready)
        app.get(
            "/metrics",
            responses=answers_with("text/plain", (400, 401)),
            response_class=PlainTextResponse,
            dependencies=guarded,
        )(self.metrics)
        app.get("/v1/tasks", responses=answers_with(documents.Tasks, (400, 401)), dependencies=guarded)(
            self.tasks
        )
        app.get(
            "/v1/tasks/{task}/report",
            responses=answers_with("text/html", TASK),
            response_class=HTMLResponse,
            dependencies=guarded,
        )(self.report)
        for path, model, answer in (
            ("/v1/tasks/{task}/predict", documents.Predictions, self.predict),
            ("/v1/tasks/{task}/explain", documents.Explanation, self.explain),
            ("/v1/tasks/{task}/nearest", documents.Nearest, self.nearest),
            ("/v1/predict", documents.SeveralPredictions, self.predict_several),
        ):
            app.post(path, responses=answers_with(model, ANY), dependencies=guarded, openapi_extra=BODY)(
                answer
            )
        task = "/v1/tasks/{task}"
        app.put(
            task,
            responses=answers_with(documents.TaskInfo, ANY),
            dependencies=guarded,
            openapi_extra=NEW_TASK,
        )(self.load)
        app.delete(
            task,
            status_code=204,
            response_description="It is gone.",
            responses=answers_with(None, REMOVE),
            dependencies=guarded,
        )(self.unload)
        return app

    # -- pages and health

    async def page(self) -> HTMLResponse:
        """The page to try the tasks with."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": PAGE_POLICY})

    async def docs(self, request: Request) -> HTMLResponse:
        """The page for those who write programs that ask."""
        address = str(request.base_url).rstrip("/")
        page = documentation(request.app.openapi(), address, token=self._access.token is not None)
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    async def alive(self) -> Response:
        """That the process answers."""
        return Answer({"status": "alive"})

    async def ready(self) -> Response:
        """That every task has given its golden answers here: one that does not is never served."""
        if self._stopping or not self._registry.tasks:
            raise HTTPException(
                503, "The server is stopping." if self._stopping else "There is no task to serve."
            )
        return Answer({"status": "ready"})

    async def metrics(self) -> Response:
        """Counts and times in Prometheus' form."""
        return Response(self._meters.text(), media_type=CONTENT_TYPE)

    # -- tasks

    async def tasks(self) -> Response:
        """What is served, and from what."""
        # Their scores and reports are on disk: with many tasks the others must not wait for it.
        tasks = list(self._registry.tasks.values())
        return Answer({"tasks": await run_in_threadpool(lambda: [_describe(task) for task in tasks])})

    async def report(self, task: TaskName) -> Response:
        """The report of the task's training."""
        file = _report_of(self._task(task))
        if file is None:
            raise HTTPException(404, f"The run of the task {task!r} has no report.")
        return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    async def load(self, task: TaskName, request: Request) -> Response:
        """Serve a run under this name, in place of what had it before; where --allow-changes allows it."""
        root = self._changes()
        folder = _below(root, await self._intake.run(request))
        try:
            return Answer(_describe(await run_in_threadpool(self._registry.put, task, folder)))
        except UnfreezeError as problem:
            # Where it lies is nobody's business over the network.
            raise HTTPException(422, str(problem).replace(str(folder), folder.name)) from None
        except OSError as problem:
            raise HTTPException(422, f"The run cannot be read: {problem.strerror or problem}.") from None

    async def unload(self, task: TaskName) -> Response:
        """Serve the task no longer; where --allow-changes allows it."""
        self._changes()
        try:
            await run_in_threadpool(self._registry.remove, task)
        except KeyError:
            raise _unknown(task, self._registry) from None
        return Response(status_code=204)

    def _changes(self) -> Path:
        """The folder that runs may be loaded from."""
        root = self._access.changes
        if root is None:
            raise HTTPException(
                403, "Tasks cannot be changed here: the server was started without --allow-changes."
            )
        return root

    # -- answers

    async def predict(self, task: TaskName, request: Request) -> Response:
        """The answers of one task, in the order of the inputs: files of a form, or images or texts in JSON."""
        found = self._task(task)
        with self._measured((found,)):
            async with self._asked(request, found.host) as asked:
                answers = (await self._answers.predict((found,), asked))[task]
        self._meters.unread(task, sum(answer["error"] is not None for answer in answers))
        return Answer(_head(found) | {"predictions": answers})

    async def predict_several(self, request: Request) -> Response:
        """The answers of several tasks about the same inputs; tasks on one network compute it once."""
        async with self._asked(request) as asked:
            if not asked.tasks:
                raise HTTPException(422, "Name at least one task in the field 'tasks'.")
            tasks = [self._task(name) for name in dict.fromkeys(asked.tasks)]
            groups: dict[Hashable, list[Task]] = {}
            for task in tasks:
                groups.setdefault(task.group, []).append(task)
            with self._measured(tasks):
                parts = await asyncio.gather(
                    *(self._answers.predict(group, asked) for group in groups.values())
                )
        found = {name: rows for part in parts for name, rows in part.items()}
        for name, rows in found.items():
            self._meters.unread(name, sum(row["error"] is not None for row in rows))
        return Answer({"answers": [_head(task) | {"predictions": found[task.name]} for task in tasks]})

    async def explain(self, task: TaskName, request: Request) -> Response:
        """Why the first input is answered as it is: a picture to lay over it, or its words with weights in -1..1."""
        found = self._task(task)
        with self._measured((found,)):
            async with self._asked(request, found.host) as asked:
                return Answer(_head(found) | await self._answers.explain(found, asked))

    async def nearest(self, task: TaskName, request: Request) -> Response:
        """The training rows most like each input, by the cosine of what the head reads; top_k of them."""
        found = self._task(task)
        with self._measured((found,)):
            async with self._asked(request, found.host) as asked:
                return Answer(_head(found) | {"nearest": await self._answers.nearest(found, asked)})

    @asynccontextmanager
    async def _asked(self, request: Request, host: Host | None = None) -> AsyncIterator[Asked]:
        """The request's body, which is not kept where ``host`` could not take one more input."""
        if host is not None:
            self._answers.check_room(host)
        async with self._intake.asked(request) as asked:
            yield asked

    @contextmanager
    def _measured(self, tasks: Sequence[Task]) -> Iterator[None]:
        began, status = time.perf_counter(), 500
        try:
            yield
            status = 200
        except HTTPException as problem:
            status = problem.status_code
            raise
        finally:
            for task in tasks:
                self._meters.answered(task.name, status, time.perf_counter() - began)

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


async def _refused(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, StarletteError)
    return Answer({"detail": problem.detail}, status_code=problem.status_code, headers=problem.headers)


def _below(root: Path, run: str) -> Path:
    """The folder of a run that may be loaded; a name that no file system knows lies nowhere."""
    try:
        folder = (root / run).resolve()
    except (OSError, ValueError):
        folder = root.resolve()
    if folder == root.resolve() or not folder.is_relative_to(root.resolve()):
        raise HTTPException(403, "The run lies outside the folder that runs may be loaded from.")
    return folder


def _unknown(name: str, registry: Registry) -> HTTPException:
    known = ", ".join(list(registry.tasks)[:5]) or "none"
    return HTTPException(404, f"There is no task {name[:80]!r}; served are: {known}.")


def _head(task: Task) -> dict[str, Any]:
    """What every answer names: the hashes of the run and of its network."""
    return {"task": task.name, "run": task.run, "base": task.base}


def _report_of(task: Task) -> Path | None:
    """The report of a task's run. No hash vouches for it, so a link, which could lead to any file, is none."""
    file = task.folder / REPORT
    return file if file.is_file() and not file.is_symlink() else None


def _describe(task: Task) -> dict[str, Any]:
    threshold, scores = task.bundle.threshold, task.scores
    return _head(task) | {
        "modality": task.bundle.modality,
        "labels": list(task.bundle.labels),
        "backbone": task.bundle.backbone.name,
        "strategy": task.bundle.strategy,
        "executor": task.executor,
        "threshold": None if threshold is None else threshold.probability,
        "examples": carries_examples(task.folder, task.bundle),
        "report": _report_of(task) is not None,
        "test": {
            name: scores[name]
            for name in SERVED
            if isinstance(scores.get(name), int | float) and math.isfinite(scores[name])
        },
    }
