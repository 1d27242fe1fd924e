import pytest
from steered import Play


@pytest.fixture
def play(loaded, tile_codec):
    """Makes a :class:`Play`."""
    return lambda question, dreams, run=None: Play(loaded, tile_codec, question, dreams, run)
