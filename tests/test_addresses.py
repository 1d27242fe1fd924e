"""Which addresses need a token, by table, and where tokens are found: held against Ray's own answer."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ray_tokens import TOKEN, without_token, write_token

from dreamrl import addresses
from dreamrl.cluster import check_found
from dreamrl.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    return without_token(monkeypatch, tmp_path / "home")


LOOPBACK = (
    "localhost LOCALHOST localhost:6379 127.0.0.1 127.0.0.1:6379 127.8.9.10:1 http://127.0.0.1:8265 "
    "https://localhost:8265/ ray://127.0.0.1:10001 ::1 [::1] [::1]:6379 ray://[::1]:10001 ::ffff:127.0.0.1 "
    "http://[::ffff:127.0.0.1]:8265 http://user@127.0.0.1:8265"
)
REMOTE = (
    "0.0.0.0 0.0.0.0:6379 http://0.0.0.0:8265 :: [::]:6379 10.0.0.5 10.0.0.5:6379 ray://192.168.1.1:10001 "
    "http://example.org:8265 example.org localhost.example.org 127.0.0.1.example.org http://127.0.0.1@example.org:8265 "
    "http://localhost:1@10.0.0.5:8265 128.0.0.1 [fe80::1]:6379 ::ffff:10.0.0.5 [not-an-address]:1 0 127.1 auto http:// "
    ":1"
)


@pytest.mark.parametrize("address", LOOPBACK.split())
def test_loopback_addresses(address):
    assert addresses.is_loopback(address)


@pytest.mark.parametrize("address", ["", *REMOTE.split()])
def test_addresses_that_others_may_reach(address):
    assert not addresses.is_loopback(address)


@pytest.mark.parametrize("address", ["10.0.0.5:6379", "ray://10.0.0.5:10001", "http://10.0.0.5:8265", "auto"])
@pytest.mark.parametrize(
    ("mode", "token", "told"),
    [
        (None, False, "export RAY_AUTH_MODE=token"),
        (None, True, "export RAY_AUTH_MODE=token"),
        ("disabled", True, "export RAY_AUTH_MODE=token"),
        ("token", False, "no token was found; put the cluster's token into {home}/.ray/auth_token"),
        ("token", True, None),
        ("TOKEN", True, None),
    ],
)
def test_another_machine_needs_a_token(monkeypatch, no_token, address, mode, token, told):
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if token:
        write_token(no_token)
    if address == "auto":
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    if told is None:
        addresses.require_token(address)
        return
    with pytest.raises(UserError) as refused:
        addresses.require_token(address)
    assert told.format(home=no_token) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("address", ["local", "auto", "127.0.0.1:6379", "ray://localhost:10001"])
def test_this_machine_needs_none(no_token, address):
    addresses.require_token(address)


@pytest.mark.parametrize(
    "command", ["train", "pretrain", "ppo --model frozen-lake", "collect --world frozen_lake --num 4"]
)
def test_every_command_that_joins_a_cluster_keeps_to_the_rule(no_token, refused, monkeypatch, command):
    monkeypatch.chdir(no_token)
    with socket.create_server(("0.0.0.0", 0)) as server:
        host = f"0.0.0.0:{server.getsockname()[1]}"  # answers here, and is no loopback address
        message = refused(*command.split(), "--out", "new", "--address", host)
    assert message == f"--address {host} is another machine; turn Ray's authentication on: export RAY_AUTH_MODE=token"


def test_ray_finds_a_token_where_we_do(tmp_path):
    """Ray reads its environment once in a process, so another one asks it about each case."""
    full, blank = tmp_path / "full", tmp_path / "blank"
    write_file = {full: TOKEN, blank: " \n"}
    for path, text in write_file.items():
        (path / ".ray").mkdir(parents=True)
        (path / ".ray" / "auth_token").write_text(text)
    cases = [
        {"HOME": str(tmp_path)},
        {"HOME": str(full)},
        {"HOME": str(blank)},
        {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": TOKEN},
        {"HOME": str(full), "RAY_AUTH_TOKEN": ""},
        {"HOME": str(tmp_path), "RAY_AUTH_TOKEN_PATH": str(full / ".ray" / "auth_token")},
        {"HOME": str(full), "RAY_AUTH_TOKEN_PATH": ""},
    ]
    program = (
        "import json, os, sys\n"
        "from ray._raylet import AuthenticationTokenLoader\n"
        "from dreamrl.addresses import has_token\n"
        "for case in json.loads(sys.argv[1]):\n"
        "    for name in ('RAY_AUTH_TOKEN', 'RAY_AUTH_TOKEN_PATH'):\n"
        "        os.environ.pop(name, None)\n"
        "    os.environ.update(case)\n"
        "    AuthenticationTokenLoader.instance().reset_cache()\n"
        "    print(int(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)), int(has_token()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(cases)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    answers = [line.split() for line in done.stdout.splitlines()]
    assert [ray for ray, _ in answers] == ["0", "1", "0", "1", "1", "1", "1"]
    assert [ours for _, ours in answers] == [ray for ray, _ in answers]


def test_a_new_token_is_for_its_owner_only(no_token, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    addresses.make_token()
    assert not addresses.has_token()
    monkeypatch.delenv("RAY_AUTH_MODE")
    before = os.umask(0)
    try:
        addresses.make_token()
    finally:
        os.umask(before)
    file = no_token / ".ray" / "auth_token"
    made = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(made) == 64
    addresses.make_token()
    assert file.read_text() == made


def test_a_cluster_found_on_this_machine_must_not_be_open_to_others(no_token, monkeypatch):
    check_found("127.0.0.1:6379")
    with pytest.raises(UserError, match="10.0.0.5:6379 can be reached from other machines and has no token; restart"):
        check_found("10.0.0.5:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_found("10.0.0.5:6379")
