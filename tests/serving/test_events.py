"""Server-sent events on the wire, and what happens when a client leaves."""

import asyncio

import pytest
from asked import PLAN

from dreamrl.serving.events import HEARTBEAT, as_event, event_stream
from dreamrl.serving.limits import Refused


def collect(stream):
    async def run():
        return [part async for part in stream]

    return asyncio.run(run())


def test_an_event_is_one_block_whatever_the_text():
    block = as_event("start", {"question": "one\n\nevent: evil"}).decode()
    assert block == 'event: start\ndata: {"question":"one\\n\\nevent: evil"}\n\n'


def test_a_refusal_is_the_last_event():
    async def events():
        yield {"event": "start", "dreams": 1}
        raise Refused(504, "too slow")

    assert collect(event_stream(events())) == [
        as_event("start", {"dreams": 1}),
        as_event("error", {"error": "too slow", "status": 504}),
    ]


def test_silence_is_filled_and_nothing_is_lost_by_it():
    async def events():
        await asyncio.sleep(0.2)
        yield {"event": "answer"}

    parts = collect(event_stream(events(), heartbeat=0.05))
    assert parts[-1] == as_event("answer", {}) and set(parts[:-1]) == {HEARTBEAT} and len(parts) > 2


@pytest.mark.parametrize("waiting", [False, True])
def test_closing_the_stream_closes_the_events(waiting):
    closed = []

    async def events():
        try:
            yield {"event": "start"}
            await asyncio.sleep(60)
            yield {"event": "answer"}
        finally:
            closed.append(True)

    async def run():
        stream = event_stream(events(), heartbeat=0.01)
        await anext(stream)
        if waiting:
            assert await anext(stream) == HEARTBEAT
        await stream.aclose()

    asyncio.run(run())
    assert closed == [True]


def test_leaving_a_stream_gives_the_request_up(service):
    async def run():
        stream = event_stream(service.stream({"prompt": PLAN, "seed": 1, "dreams": 32}))
        assert (await anext(stream)).startswith(b"event: queued")
        await stream.aclose()
        for _ in range(1000):
            if service.engine.open == 0:
                return True
            await asyncio.sleep(0.01)

    assert asyncio.run(run())
