"""A request's body as raw inputs: files of a form, or base64 and texts in JSON, within the limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteError
from starlette.requests import ClientDisconnect
from starlette.types import Message

from unfreeze.runtime.files import parse_json
from unfreeze.serving.limits import Limits

# Beside the inputs a form names tasks and how many classes to answer.
FIELDS = ("tasks", "top_k")
RUN = "run"
MOST_TASKS = 1000
MOST_CLASSES = 1000
# The answer for a client that has gone is read by nobody; nginx's status for it stands in the metrics.
GONE = 499
Found = TypeVar("Found")


@dataclass(frozen=True)
class Asked:
    """``inputs``: a name and the raw bytes or text of each. ``tasks`` may be empty."""

    inputs: list[tuple[str, bytes | str]]
    tasks: tuple[str, ...]
    top_k: int


class Intake:
    """Reads bodies, and counts what all of them together hold in memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = max(limits.held, 2 * limits.body)
        self._held = 0

    @asynccontextmanager
    async def asked(self, request: Request) -> AsyncIterator[Asked]:
        """What a request asks for; its bytes count as held until the block ends.

        HTTPException with status 408, 413, 415, 422 or 429 and a sentence when it cannot be used.
        """
        async with self._counted(request) as counted:
            yield await _read(
                counted, self._limits, {"multipart/form-data": _form, "application/json": _json}
            )

    async def run(self, request: Request) -> str:
        """The run that a request to load one names. HTTPException as for ``asked``."""
        async with self._counted(request) as counted:
            return await _read(counted, self._limits, {"application/json": _run})

    @asynccontextmanager
    async def _counted(self, request: Request) -> AsyncIterator[Request]:
        """The request, whose body may be no larger than allowed and counts as held until the block ends."""
        limits, seen = self._limits, 0

        async def receive() -> Message:
            nonlocal seen
            message = await request.receive()
            size = len(message.get("body", b""))
            seen += size
            self._held += size
            # Whatever its header said.
            if seen > limits.body:
                raise _too_large(limits)
            if self._held > self._most:
                raise HTTPException(
                    429,
                    "The server holds as many requests as it may: try again in a moment.",
                    headers={"Retry-After": "1"},
                )
            return message

        try:
            yield Request(request.scope, receive)
        finally:
            self._held -= seen


async def _read(
    request: Request, limits: Limits, readers: Mapping[str, Callable[[Request, Limits], Awaitable[Found]]]
) -> Found:
    """What the reader of its content type makes of a body that arrives in time."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in readers:
        raise HTTPException(415, f"The content type {kind[:80]!r} is not read: send {' or '.join(readers)}.")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > limits.body:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.seconds):
            return await readers[kind](request, limits)
    except TimeoutError:
        raise HTTPException(408, f"The request did not arrive within {limits.seconds:g} seconds.") from None
    except ClientDisconnect:
        raise HTTPException(GONE, "The client has gone.") from None


async def _object(request: Request, known: tuple[str, ...]) -> dict[str, Any]:
    """The body as a JSON object with no other fields than these."""
    try:
        found = parse_json(await request.body())
    except ValueError:
        raise HTTPException(422, "The body is no JSON.") from None
    if not isinstance(found, dict):
        raise HTTPException(422, "The body must be a JSON object.")
    unknown = sorted(found.keys() - set(known))
    if unknown:
        raise HTTPException(422, f"The body has an unknown field {unknown[0][:80]!r}.")
    return found


async def _run(request: Request, _: Limits) -> str:
    run = (await _object(request, (RUN,))).get(RUN)
    if not isinstance(run, str):
        raise HTTPException(422, f"The field {RUN!r} must be a string.")
    return run


async def _json(request: Request, limits: Limits) -> Asked:
    found = await _object(request, ("images", "texts", *FIELDS))
    images, texts = (_strings(found.get(name, []), name) for name in ("images", "texts"))
    if bool(images) == bool(texts):
        raise HTTPException(
            422, "Give a list of images (base64) or a list of texts, with at least one entry."
        )
    _check_count(len(images) + len(texts), limits)
    inputs: list[tuple[str, bytes | str]] = []
    inputs += [(f"image {place}", _decoded(image)) for place, image in enumerate(images, 1)]
    inputs += [(f"text {place}", text) for place, text in enumerate(texts, 1)]
    _check_texts(inputs, limits)
    return Asked(inputs, tuple(_strings(found.get("tasks", []), "tasks")), _top_k(found.get("top_k")))


async def _form(request: Request, limits: Limits) -> Asked:
    inputs: list[tuple[str, bytes | str]] = []
    tasks: list[str] = []
    top_k: object = None
    try:
        # A text is measured below: the body it is part of is bounded already.
        async with request.form(
            max_files=limits.inputs, max_fields=MOST_TASKS + limits.inputs, max_part_size=limits.body
        ) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    inputs.append(((value.filename or f"file {len(inputs) + 1}")[:255], await value.read()))
                elif name == "texts":
                    inputs.append((f"text {len(inputs) + 1}", value))
                elif name == "tasks":
                    tasks.append(value)
                elif name == "top_k":
                    top_k = int(value) if value.isascii() and value.isdigit() and len(value) < 6 else value
                else:
                    raise HTTPException(422, f"The form has an unknown field {name[:80]!r}.")
    except HTTPException:
        raise
    except StarletteError as problem:
        # The parser tells a form that is damaged from one with too many parts by its sentence alone.
        if str(problem.detail).startswith("Too many"):
            raise HTTPException(
                413, f"The form has too many parts; {limits.inputs} inputs may be sent at once."
            ) from None
        raise HTTPException(422, f"The form cannot be read: {problem.detail}") from None
    except (FormParserError, ValueError):  # from its encoding, or an older parser
        raise HTTPException(422, "The form cannot be read: it is damaged.") from None
    if not inputs:
        raise HTTPException(422, "The form has no files and no texts.")
    _check_count(len(inputs), limits)
    _check_texts(inputs, limits)
    return Asked(inputs, tuple(tasks), _top_k(top_k))


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"The request is larger than {limits.body / 2**20:g} MiB.")


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.inputs:
        raise HTTPException(413, f"The request has {count} inputs; {limits.inputs} may be sent at once.")


def _check_texts(inputs: list[tuple[str, bytes | str]], limits: Limits) -> None:
    for name, value in inputs:
        if isinstance(value, str) and len(value) > limits.text:
            raise HTTPException(
                413, f"{name} has {len(value):,} characters; a text may have {limits.text:,}."
            )


def _strings(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise HTTPException(422, f"The field {name!r} must be a list of strings.")
    if name == "tasks" and len(value) > MOST_TASKS:
        raise HTTPException(413, f"The request names {len(value)} tasks; {MOST_TASKS} may be asked at once.")
    return value


def _decoded(text: str) -> bytes:
    # A browser's data URL is taken too.
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(422, "An image is not base64.") from None


def _top_k(value: object) -> int:
    if value is None:
        return 5
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_CLASSES:
        raise HTTPException(422, f"top_k must be a whole number from 1 to {MOST_CLASSES}.")
    return value
