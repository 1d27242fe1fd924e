"""Fixtures of the worlds' tests: dreams steered by hand, and a world of annotated images."""

import pytest
from annotated import GenomeFiles, random_graph
from steered import Play

from envs.questions import stream
from envs.worlds.scene_graphs import SceneGraph


@pytest.fixture
def play(loaded, tile_codec):
    """Makes a :class:`Play`."""
    return lambda question, dreams, run=None: Play(loaded, tile_codec, question, dreams, run)


@pytest.fixture(scope="session")
def annotations():
    """Image id -> (things, relations); not to be changed."""
    rng = stream(3, 1)
    return {number: random_graph(rng) for number in range(1, 121)}


@pytest.fixture(scope="session")
def genome_root(tmp_path_factory, annotations):
    """Directory of these annotations and their images."""
    files = GenomeFiles(tmp_path_factory.mktemp("vg"))
    for number, (things, relations) in annotations.items():
        files.add(number, things, relations)
    return files.write()


@pytest.fixture(scope="session")
def graph_world(genome_root):
    """The world of these images; not to be changed."""
    return SceneGraph(genome_root)
