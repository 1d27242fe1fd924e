"""An application that listens in a thread of this process."""

import http.client
import socket

import pytest

from dreamrl.serving import listener
from dreamrl.serving.launch import free_port
from dreamrl.serving.listener import Listener


async def echo(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body[::-1]})


def ask(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/", body)
    answer = connection.getresponse().read()
    connection.close()
    return answer


def test_it_listens_once_it_is_made_until_it_is_stopped():
    port = free_port("127.0.0.1", 0)
    one = Listener(echo, "127.0.0.1", port)
    assert one.alive and ask(port, b"dream") == b"maerd"
    one.stop()
    assert not one.alive
    with pytest.raises(OSError):
        ask(port, b"dream")
    again = Listener(echo, "127.0.0.1", port)  # as when a gateway is started anew
    assert ask(port, b"dream") == b"maerd"
    again.stop()


def test_a_port_that_stays_taken_is_an_error(monkeypatch):
    monkeypatch.setattr(listener, "START_SECONDS", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            Listener(echo, "127.0.0.1", port)
