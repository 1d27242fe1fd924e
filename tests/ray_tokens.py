"""Homes with and without Ray's token, for the tests of what needs one."""

TOKEN = "5ec2e7" + "0123456789abcdef" * 3
NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def without_token(monkeypatch, home):
    """Make ``home``, where no token is found, the home of this process."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def write_token(home):
    """Put a token where Ray looks for it by default."""
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
