"""Who may ask, and in which form."""

import asyncio
import json

import pytest

from dreamrl.serving.guard import Guard, digest
from dreamrl.serving.limits import Limits
from dreamrl.serving.metrics import Metrics

TOKEN = "correct-horse-battery"


def get(client, path="/v1/health", **headers):
    return client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "localhost:1"])
def test_this_machine_is_served_under_its_own_names(client, host):
    assert get(client, host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1:8000", "0.0.0.0", ""])
@pytest.mark.parametrize("path", ["/", "/v1/health", "/openapi.json"])
def test_other_names_are_refused_so_that_dns_cannot_be_rebound(client, host, path):
    response = get(client, path, host=host)
    assert response.status_code == 403 and "is not this machine" in response.json()["error"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9", "http://localhost:8000"])
def test_pages_of_other_sites_may_not_ask(client, origin):
    response = get(client, origin=origin)
    assert response.status_code == 403 and origin in response.json()["error"]
    assert "access-control-allow-origin" not in response.headers
    assert get(client, origin="http://127.0.0.1:8000").status_code == 200


def test_a_browsers_preflight_is_not_answered_with_leave(client):
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    response = client.options("/v1/generate", headers=asked)
    assert response.status_code >= 400
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_with_a_token_the_name_does_not_matter_and_the_token_does(make_client):
    client = make_client(token_digest=digest(TOKEN), base_url="http://dreams.example")
    for wrong in ({}, {"authorization": "Bearer no"}, {"authorization": TOKEN}, {"authorization": "Basic x"}):
        response = get(client, **wrong)
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/generate", json={}, headers=wrong).status_code == 401
    assert get(client, authorization=f"Bearer {TOKEN}").status_code == 200
    assert client.get("/").status_code == 200  # the page asks for the token
    assert client.get("/openapi.json").status_code == 401
    assert TOKEN not in digest(TOKEN)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_read_which_other_sites_cannot_post_unasked(client, kind):
    response = client.post("/v1/generate", content=b"{}", headers={"content-type": kind})
    assert response.status_code == 415


def call(chunks, headers=(), limit=100):
    """A POST of ``chunks`` through a guard; what the application behind it read, and the status."""
    seen, sent = [], []

    async def reads(scope, receive, send):
        seen.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run():
        last = len(chunks) - 1
        messages = [{"type": "http.request", "body": c, "more_body": n < last} for n, c in enumerate(chunks)]

        async def receive():
            if not messages:
                await asyncio.Event().wait()
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        fixed = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/generate", "headers": [*fixed, *headers]}
        await Guard(reads, None, Metrics(), Limits(body_bytes=limit))(scope, receive, send)

    asyncio.run(run())
    return seen, sent[0]["status"], sent


def test_a_body_is_handed_on_whole():
    assert call([b"{", b'"a": 1', b"}"])[:2] == ([b'{"a": 1}'], 200)


@pytest.mark.parametrize(
    ("chunks", "headers"),
    [([b"x" * 101], ()), ([b"x" * 60, b"x" * 60], ()), ([b""], [(b"content-length", b"101")])],
)
def test_a_body_that_is_too_large_is_not_read_on(chunks, headers):
    seen, status, sent = call(chunks, headers)
    assert seen == [] and status == 413
    assert json.loads(sent[1]["body"]) == {"error": "the body is larger than 100 bytes"}


def test_every_answer_forbids_foreign_scripts_and_frames(client):
    for path in ("/", "/v1/health", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"


class Slow:
    """An application that answers nothing until it is cancelled, and the server's side of one request."""

    def __init__(self):
        self.begun, self.left, self.cancelled, self.sent = asyncio.Event(), asyncio.Event(), False, []
        self.body = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def __call__(self, scope, receive, send):
        await receive()
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def receive(self):
        if self.body:
            return self.body.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)


POST = {
    "type": "http",
    "method": "POST",
    "path": "/v1/generate",
    "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
}


def test_a_client_that_leaves_ends_its_request():
    async def run():
        slow, metrics = Slow(), Metrics()
        asking = asyncio.ensure_future(Guard(slow, None, metrics)(POST, slow.receive, slow.send))
        await slow.begun.wait()
        assert metrics.open == 1
        slow.left.set()
        await asking
        assert slow.cancelled and slow.sent == [] and metrics.open == 0
        assert metrics.requests == {("/v1/generate", 499): 1}

    asyncio.run(run())


def test_more_than_may_be_open_are_turned_away_before_their_body_is_read():
    async def run():
        metrics = Metrics()
        clients = [Slow() for _ in range(3)]
        guard = Guard(clients[0], None, metrics, Limits(requests=2))
        tasks = [asyncio.ensure_future(guard(POST, one.receive, one.send)) for one in clients]
        await tasks[2]
        start, body = clients[2].sent
        assert start["status"] == 503 and (b"retry-after", b"1") in start["headers"] and clients[2].body != []
        assert json.loads(body["body"])["error"].startswith("2 requests are open already")
        for one, task in zip(clients[:2], tasks[:2], strict=True):
            one.left.set()
            await task
        assert metrics.open == 0

    asyncio.run(run())
