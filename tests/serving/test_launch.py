"""Before a server starts: tokens and ports."""

import socket

import pytest

from dreamrl.errors import UserError
from dreamrl.serving.launch import TOKEN, free_port, read_token

GOOD = "0123456789abcdef"


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_no_token(host):
    assert read_token(host, None) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.5", "example.org"])
def test_other_hosts_are_refused_without_a_token(host, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=f"--host {host} lets other machines in, which needs a token: export {TOKEN}"):
        read_token(host, None)
    monkeypatch.setenv(TOKEN, GOOD)
    assert read_token(host, None) == GOOD
    (tmp_path / "token").write_text(f"{GOOD}-file\n")
    assert read_token(host, tmp_path / "token") == f"{GOOD}-file"


@pytest.mark.parametrize("token", ["short", "with spaces in the middle", "umläute-sind-nicht-ascii", ""])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token, tmp_path):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(UserError, match="at least 16 ASCII characters"):
        read_token("127.0.0.1", tmp_path / "token")
    with pytest.raises(UserError, match="cannot be read"):
        read_token("127.0.0.1", tmp_path / "none")


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {port}.*choose another --port"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0
