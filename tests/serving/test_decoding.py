"""Decoding takes turns: no request waits for all inputs of another, and none waits for ever."""

import asyncio
import io
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unfreeze.serving import decoding
from unfreeze.serving.decoding import Decoder
from unfreeze.serving.limits import Limits


def picture(side):
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, format="PNG")
    return buffer.getvalue()


SMALL, LARGE = picture(4), picture(40)


class Slow:
    """A host whose pictures are decoded when it is told to."""

    def __init__(self):
        self.go, self.begun = threading.Event(), []

    def prepare(self, raw):
        self.begun.append(raw)
        assert self.go.wait(60)
        return np.zeros(1)


class Quick:
    def prepare(self, raw):
        return np.ones(1)


@pytest.fixture
def decoder(monkeypatch):
    monkeypatch.setattr(decoding, "LARGE", 1000)
    monkeypatch.setattr(decoding, "available_cores", lambda: 2)
    found = Decoder(Limits())
    yield found
    found.close()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_large_pictures_of_one_request_leave_the_threads_to_all_others(decoder):
    async def both():
        slow = Slow()
        waiting = asyncio.create_task(decoder.prepare(slow, [LARGE] * 40))
        await until(lambda: slow.begun)
        (answer,) = await decoder.prepare(Quick(), [SMALL])
        assert not waiting.done()
        slow.go.set()
        assert len(await waiting) == 40
        return answer

    assert asyncio.run(both()).tolist() == [1.0]


def test_large_pictures_of_two_requests_take_turns(decoder):
    async def both():
        slow = Slow()
        first = asyncio.create_task(decoder.prepare(slow, [LARGE] * 20))
        await until(lambda: slow.begun)
        second = asyncio.create_task(decoder.prepare(slow, [LARGE + b" "]))
        # It has been looked at, and waits for the thread of large ones.
        await until(lambda: decoder._alone._work_queue.qsize())
        slow.go.set()
        await asyncio.gather(first, second)
        return slow.begun.index(LARGE + b" ")

    assert asyncio.run(both()) <= 2


def test_small_pictures_of_a_request_are_handed_over_a_few_at_a_time(decoder):
    async def one():
        slow = Slow()
        waiting = asyncio.create_task(decoder.prepare(slow, [SMALL] * 50))
        await until(lambda: len(slow.begun) == 2)
        queued = decoder._pool._work_queue.qsize()
        slow.go.set()
        await waiting
        return queued

    assert asyncio.run(one()) == 0


def test_a_request_that_takes_too_long_ends_and_what_has_not_begun_never_begins(monkeypatch):
    monkeypatch.setattr(decoding, "available_cores", lambda: 1)
    decoder = Decoder(replace(Limits(), seconds=0.2))

    async def one():
        slow = Slow()
        with pytest.raises(TimeoutError):
            await decoder.prepare(slow, [SMALL] * 50)
        slow.go.set()
        decoder._limits = Limits()
        (answer,) = await decoder.prepare(Quick(), [SMALL])
        return slow.begun, answer

    begun, answer = asyncio.run(one())
    decoder.close()
    assert len(begun) <= 1
    assert answer.tolist() == [1.0]
