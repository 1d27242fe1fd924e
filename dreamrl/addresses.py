"""Which addresses of a Ray cluster are on this machine, and which token protects the others.

Whoever reaches a Ray port can run code in the cluster, so nothing beyond the loopback interface is joined without
Ray's token authentication. The token itself is never read here except to see that there is one: Ray takes it from the
same three places. Ray is not imported, so that these checks come before anything slow.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from dreamrl.errors import UserError

AUTH_MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


def is_loopback(address: str) -> bool:
    """Whether ``address`` leads to this machine only: a host, ``host:port``, ``[v6]:port`` or any URL.

    Names other than ``localhost`` are not looked up: what they lead to can change after the check. ``0.0.0.0`` and
    ``::`` mean every interface and are not loopback.

    >>> is_loopback("http://127.0.0.1:8265"), is_loopback("ray://[::1]:10001"), is_loopback("0.0.0.0:6379")
    (True, True, False)
    """
    try:
        bare = ipaddress.ip_address(address)
    except ValueError:
        try:
            host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
        except ValueError:  # brackets that hold no address
            return False
        if host == "localhost":
            return True
        try:
            bare = ipaddress.ip_address(host)
        except ValueError:
            return False
    mapped = getattr(bare, "ipv4_mapped", None)
    return (mapped or bare).is_loopback


def token_file() -> Path:
    """Where Ray reads the token from when it does not stand in the environment."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def has_token() -> bool:
    """Whether Ray finds a token: in the environment, in the file that it names, or in ``~/.ray/auth_token``."""
    if os.environ.get(TOKEN):
        return True
    try:
        return bool(token_file().read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return False


def require_token(address: str, flag: str = "--address") -> None:
    """Raise unless ``address`` is on this machine or token authentication is on and a token can be found.

    ``local`` starts a cluster on this machine, which Ray protects with a token by default. ``auto`` is what
    RAY_ADDRESS says; where it says nothing, :func:`dreamrl.cluster.ray_session` looks at the address that Ray found.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "local"
    if address in ("local", "auto") or is_loopback(address):
        return
    if os.environ.get(AUTH_MODE, "").lower() != "token":
        raise UserError(f"{flag} {address} is another machine; turn Ray's authentication on: export {AUTH_MODE}=token")
    if not has_token():
        fix = f"put the cluster's token into {token_file()} (mode 600)"
        raise UserError(f"{flag} {address} is another machine and no token was found; {fix}")


def make_token() -> None:
    """Write a new token for a cluster of this machine, readable by its owner only, unless there is one.

    Ray would write it itself, but readable for everyone under the usual umask.
    """
    if os.environ.get(AUTH_MODE, "token").lower() != "token" or os.environ.get(TOKEN_PATH) or has_token():
        return
    path = token_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
