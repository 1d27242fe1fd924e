"""Listens for HTTP in this process, beside whatever else it does.

Ray Serve has a proxy process for this. It hands each request to the gateway in several messages, which cost more
processor time than a quarter of a dreamed answer; here the gateway itself listens.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import uvicorn

START_SECONDS = 20.0
"""Until it must listen; one that died just now may hold the port for a moment."""
STOP_SECONDS = 2
"""In which open requests may be answered when it is told to stop."""
KEEP_SECONDS = 90
"""For which an idle connection is kept."""


class Listener:
    """An ASGI application at an address, in a thread with an event loop of its own.

    Args:
        app: the application.
        host: to listen on.
        port: to listen on.
    """

    def __init__(self, app: Any, host: str, port: int):
        """Returns once it listens."""
        self._config = uvicorn.Config(
            app,
            host=host,
            port=port,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        until = time.monotonic() + START_SECONDS
        while not self._start():
            if time.monotonic() > until:
                raise OSError(f"cannot listen on {host} port {port}")
            time.sleep(0.2)

    def _start(self) -> bool:
        """Whether it listens now."""
        self._server = uvicorn.Server(self._config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            time.sleep(0.01)
        return self._server.started

    def _run(self) -> None:
        try:
            self._server.run()
        except SystemExit:  # how uvicorn says that the port is taken
            return

    @property
    def alive(self) -> bool:
        """Whether it listens."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Listen no more; requests that are open have some seconds."""
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS + 1)
