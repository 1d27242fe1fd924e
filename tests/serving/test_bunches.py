"""Requests that travel together: each gets its own reply, and nobody waits for what is away."""

import asyncio

import pytest
from asked import BOARD, PLAN

from dreamrl.serving import bunches as waiting
from dreamrl.serving.bunches import Bunches
from dreamrl.serving.limits import Refused


class Replica:
    """Keeps each bunch until it is let go, then replies with the requests themselves; odd ones are refused."""

    def __init__(self):
        self.bunches, self.flights, self.left = [], [], 0

    async def send(self, requests):
        self.bunches.append([request["n"] for request in requests])
        self.flights.append(asyncio.get_running_loop().create_future())
        try:
            await self.flights[-1]
        except asyncio.CancelledError:
            self.left += 1
            raise
        return [Refused(400, "odd") if request["n"] % 2 else request for request in requests]


async def until(true):
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("timed out")


def ask(bunches, numbers):
    return [asyncio.ensure_future(bunches.ask({"n": n})) for n in numbers]


@pytest.mark.parametrize(
    ("most", "parts", "at_once", "later"),
    [(8, 1, [], [[1, 2, 3, 4]]), (3, 1, [], [[1, 2, 3], [4]]), (8, 2, [[1, 2, 3]], [[4]])],
)
def test_what_finds_every_replica_busy_leaves_together_in_fair_shares(most, parts, at_once, later):
    async def run():
        replica = Replica()
        bunches = Bunches(replica.send, most, parts)
        tasks = ask(bunches, [0])
        await until(lambda: replica.bunches == [[0]])
        tasks += ask(bunches, [1, 2, 3, 4])
        await until(lambda: replica.bunches == [[0], *at_once])
        await asyncio.sleep(0.02)
        for count in range(len(later) + 1):
            assert replica.bunches == [[0], *at_once, *later[:count]]
            replica.flights[count].set_result(None)
            await until(lambda c=count: len(replica.bunches) == 1 + len(at_once) + min(c + 1, len(later)))
        for flight in replica.flights:
            if not flight.done():
                flight.set_result(None)
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        assert replies[::2] == [{"n": 0}, {"n": 2}, {"n": 4}]
        assert [str(reply) for reply in replies[1::2]] == ["odd", "odd"]

    asyncio.run(run())


async def turns(count=4):
    """To ask, to gather and to send are a turn of the loop each."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_request_leaves_at_once_where_no_other_is_away():
    async def run():
        replica = Replica()
        bunches = Bunches(replica.send, 8, 2)
        for n in range(0, 10, 2):
            [task] = ask(bunches, [n])
            await turns()
            assert replica.bunches[-1] == [n]
            replica.flights[-1].set_result(None)
            assert await task == {"n": n}

    asyncio.run(run())


@pytest.mark.parametrize(("share", "patient"), [(1e6, True), (0.0, False)])
def test_under_load_a_bunch_waits_for_as_many_as_were_answered_but_not_for_ever(share, patient, monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 60.0)
    monkeypatch.setattr(waiting, "LONGEST_SHARE", share)

    async def run():
        replica = Replica()
        bunches = Bunches(replica.send, 8, 2)
        tasks = ask(bunches, [0])
        await turns()
        tasks += ask(bunches, [2])
        await turns()
        tasks += ask(bunches, [4, 6, 8, 10])
        await turns()
        for flight in (0, 1, 2):
            replica.flights[flight].set_result(None)
            await turns(8)
        assert replica.bunches == [[0], [2], [4, 6, 8], [10]]
        tasks += ask(bunches, [12])
        await turns()
        tasks += ask(bunches, [14])
        await turns()
        assert replica.bunches[4:] == ([] if patient else [[12]])
        tasks += ask(bunches, [16])
        await turns(8)
        if patient:
            assert replica.bunches[4:] == [[12, 14]]
        while pending := [flight for flight in replica.flights if not flight.done()]:
            pending[0].set_result(None)
            await turns(8)
        assert [reply["n"] for reply in await asyncio.gather(*tasks)] == list(range(0, 18, 2))

    asyncio.run(run())


def test_a_bunch_is_given_up_when_all_have_left_and_not_before():
    async def run():
        replica = Replica()
        bunches = Bunches(replica.send, 8, 2)
        [first] = ask(bunches, [0])
        await turns()
        rest = ask(bunches, [2, 4])
        await until(lambda: replica.bunches == [[0], [2, 4]])
        for task in rest:
            assert replica.left == 0
            task.cancel()
            await asyncio.wait([task])
            await turns()
        assert replica.left == 1 and not first.done()
        replica.flights[0].set_result(None)
        assert await first == {"n": 0}
        ask(bunches, [6])
        await turns()
        assert replica.bunches[-1] == [6]  # nothing is counted as away that is not

    asyncio.run(run())


def test_who_leaves_while_waiting_is_never_sent():
    async def run():
        replica = Replica()
        bunches = Bunches(replica.send, 8)
        [first] = ask(bunches, [0])
        await turns()
        gone, _ = ask(bunches, [2, 4])
        await turns()
        gone.cancel()
        replica.flights[0].set_result(None)
        await first
        await until(lambda: len(replica.bunches) == 2)
        assert replica.bunches == [[0], [4]]

    asyncio.run(run())


def test_what_breaks_breaks_for_the_whole_bunch():
    async def broken(requests):
        raise RuntimeError("no replica")

    with pytest.raises(RuntimeError, match="no replica"):
        asyncio.run(Bunches(broken, 8).ask({"n": 0}))


def test_a_service_answers_a_bunch_as_it_answers_each_alone(service):
    requests = [{"prompt": PLAN, "options": BOARD, "seed": seed, "dreams": 2} for seed in range(3)]
    wrong = [{"world": "nowhere"}, {"prompt": PLAN, "options": {"desc": ["SH", "HG"]}}]

    async def run():
        together = await service.generate_all([*requests, *wrong])
        return together, [await service.generate(request) for request in requests]

    together, alone = asyncio.run(run())
    assert [reply.status for reply in together[3:]] == [400, 400] and "nowhere" in together[3].reason
    assert {reply["batch"] for reply in together[:3]} == {3}
    for mine, other in zip(together, alone, strict=False):
        assert mine["text"] == other["text"] and mine["dreams"] == other["dreams"]
