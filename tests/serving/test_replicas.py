"""What the gateway does when a replica dies; hand-written replicas, no processes."""

import asyncio

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from dreamrl.serving.deployment import REFUSED, Replicas
from dreamrl.serving.limits import Limits, Refused
from dreamrl.serving.metrics import Metrics

EVENTS = [{"event": "queued"}, *[{"event": "steps", "n": n} for n in range(3)], {"event": "answer"}]


class Response:
    """Events, then perhaps an error; awaited, the last of them."""

    def __init__(self, events, error=None):
        self.events, self.error, self.cancelled = events, error, False

    def cancel(self):
        self.cancelled = True

    def __await__(self):
        async def last():
            if self.error:
                raise self.error
            return self.events[-1]

        return last().__await__()

    async def __aiter__(self):
        for event in self.events:
            yield event
        if self.error:
            raise self.error


class Handle:
    """Of a deployment that answers with ``responses``, one after the other."""

    def __init__(self, responses):
        self.responses, self.asked = responses, 0
        self.call = self.stream = self

    def options(self, stream):
        return self

    def remote(self, *arguments):
        self.asked += 1
        return self.responses[self.asked - 1]


def replicas(*responses, **limits):
    return Replicas(Handle(responses), Metrics(), Limits(**limits))


def stream(backend):
    async def run():
        return [event async for event in backend.stream({})]

    return asyncio.run(run())


@pytest.mark.parametrize("lived", range(5))
def test_a_stream_goes_on_where_the_dead_replica_stopped(lived):
    responses = Response(EVENTS[:lived], ActorDiedError()), Response([], ActorDiedError()), Response(EVENTS)
    backend = replicas(*responses)
    assert stream(backend) == EVENTS
    assert backend.metrics.retries == 2 and all(response.cancelled for response in responses)


def test_a_request_is_asked_again_until_it_is_answered():
    backend = replicas(Response([], ActorDiedError()), Response([{"text": "up"}]))
    assert asyncio.run(backend.generate({})) == {"text": "up"}


def test_time_for_that_is_bounded():
    backend = replicas(*[Response([], ActorDiedError())] * 99, seconds=0.5)
    with pytest.raises(Refused, match="no replica answers") as refused:
        asyncio.run(backend.generate({}))
    assert refused.value.status == 503 and 1 < backend.handle.asked < 10


def test_our_own_errors_are_not_tried_again():
    error = RayTaskError("call", "traceback", ValueError("a bug"))
    for ask in (lambda b: asyncio.run(b.generate({})), stream):
        backend = replicas(Response([], error))
        with pytest.raises(RayTaskError):
            ask(backend)
        assert backend.handle.asked == 1


def test_refusals_travel_as_values():
    refusal = {REFUSED: [400, "no such world"]}
    for ask in (lambda b: asyncio.run(b.scene({})), stream):
        with pytest.raises(Refused, match="no such world") as refused:
            ask(replicas(Response([refusal])))
        assert refused.value.status == 400


def test_leaving_cancels_the_replicas_work():
    response = Response(EVENTS)
    backend = replicas(response)

    async def run():
        events = backend.stream({})
        await anext(events)
        await events.aclose()

    asyncio.run(run())
    assert response.cancelled and backend.handle.asked == 1
