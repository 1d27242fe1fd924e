"""A service around a small untrained model, and a browser's view of its application."""

import pytest
from browser import browse
from page import READY
from starlette.testclient import TestClient

from dreamrl.serving.app import make_app
from dreamrl.serving.service import Service
from envs.world import Outcome


@pytest.fixture(scope="session")
def loaded(make_loaded):
    """A small untrained model that dreams on for several steps."""
    loaded = make_loaded()
    loaded.model.requires_grad_(False)
    loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 2.0
    return loaded


@pytest.fixture(scope="session")
def service(loaded):
    service = Service(loaded, "small")
    yield service
    service.engine.close()


@pytest.fixture
def make_client(service):
    """Makes a client of an application; ``backend`` is the small model unless given."""

    def make(backend=None, token_digest=None, base_url="http://127.0.0.1:8000"):
        return TestClient(make_app(backend or service, token_digest), base_url=base_url, raise_server_exceptions=False)

    return make


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture(scope="module")
def browser(address):
    """A browser that has opened the page at the module's ``address``."""
    with browse(address) as page:
        page.wait(READY)
        yield page
