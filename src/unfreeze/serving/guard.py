"""What holds for every request: headers of its answer, and a refusal that reaches a client which is still sending."""

from __future__ import annotations

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What no browser should guess for itself.
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
REQUEST_TIMEOUT = 408
# How long the body of a refused request may still arrive.
SECONDS = 5.0


class Guard:
    """Wraps the application ``app``; of a refused request up to ``most`` bytes of body are read and forgotten.

    A client that is sending looks for an answer only when it has done. If the connection were closed on it before, it
    would learn of that, and not why.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        over = False

        async def watched() -> Message:
            nonlocal over
            message = await receive()
            over = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Who was too slow already gets no more time.
                if message["status"] >= 400 and message["status"] != REQUEST_TIMEOUT:
                    await forget()
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        async def forget() -> None:
            left = self._most
            try:
                async with asyncio.timeout(SECONDS):
                    while not over and left > 0:
                        left -= len((await watched()).get("body", b""))
            except TimeoutError:
                return

        await self._app(scope, watched, told)
