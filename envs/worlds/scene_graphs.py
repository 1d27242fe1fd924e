"""Scene graphs: questions about relations between the things in annotated photographs.

Description: a photograph and a spotlight. The start shows the whole picture lit; looking at a thing dims all patches
    but those that it covers, and a relation moves the light on: from the dog, "next to" lights what the dog is next to.
Action Space: "look at the NAME" for the most frequent names, then the most frequent predicates. Several things of a
    name, or several objects of a relation, are lit together. An action that leads nowhere changes nothing.
Observation: an RGB frame, the picture scaled to ``size`` patches along its longer side.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: never; a question is over when its script is.

Images and relations are Visual Genome's, read from a directory; see :mod:`envs.annotations`. Why a spotlight and no
crop of the object: a crop shows nothing of what else is there, so the next relation could not be foreseen from it,
and one scaled up from the file shows detail that the start frame lacks. Under the spotlight the frame says all of the
state, and each of its patches is a patch of the start, lit or dimmed.

What an annotation does not say is unknown, not false. So nothing is asked about a relation that is not annotated, and
random play takes only actions that lead somewhere in the picture. What is true holds as annotated, mistakes included.

A photograph has no small set of patches: unlike drawn worlds this one needs a code book as large as can be had, and
its dreams show no more than the codes can show.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np

from envs.annotations.graph_scene import GraphScene
from envs.annotations.graph_words import ARTICLE, NOTHING, Words
from envs.annotations.graphs import OBJECT, read_graphs
from envs.annotations.pictures import content_hash, decode, fit_patches, read_file
from envs.annotations.report import BadRecord
from envs.annotations.visual_genome import VisualGenomeRelationships
from envs.world import Question, QuestionKind, Split, World, WorldError, split_of

ROOT_VARIABLE = "DREAMRL_SCENE_GRAPHS"
"""Environment variable that names the directory where none is given."""
SKIP_VARIABLE = "DREAMRL_SCENE_GRAPHS_SKIP_BAD"
"""Environment variable that says whether bad records are skipped, 1 or 0, where that is not given."""
CHAIN_SHARE = 0.5
"""Share of questions that follow two relations, where the picture has such."""
MAX_TRIES = 2000
"""Images that are tried for a scene of the wanted split; the rarest splits hold a tenth of all."""
MAX_CACHED = 1024
"""Scenes that are kept in memory, 48 KiB each at 8x8 patches of 16 pixels."""
MAX_ACTIONS = 127
"""Dreamed actions are stored in a signed byte."""
EXAMPLE = '{"image_id": 2317993}'


class SceneGraph(World):
    """Relations in the pictures of a directory laid out like Visual Genome's.

    Answers are balanced over names: an image is drawn, and a question about it, the likelier the rarer its answer.
    That a thing is "the" dog means that no other thing called so has a relation in the annotations.
    """

    name = "scene_graph"
    family = "relational"
    kinds = (QuestionKind.PREDICT,)
    min_size, max_size, default_sizes = 4, 8, (8,)

    def __init__(
        self,
        root: Path | str | None = None,
        patch_size: int = 16,
        num_names: int = 64,
        num_predicates: int = 32,
        skip_bad: bool | None = None,
    ):
        """Read the annotations; images are opened when they are drawn.

        Args:
            root: directory with ``image_data.json``, ``relationships.json`` and the images in ``VG_100K`` and
                ``VG_100K_2``; by default what the environment variable DREAMRL_SCENE_GRAPHS names.
            patch_size: pixels a patch.
            num_names: most frequent names, which can be looked at; everything else is left out.
            num_predicates: most frequent predicates, which can be followed; everything else is left out.
            skip_bad: count bad records in ``report`` and warn of them instead of raising the first one's error, which
                the whole of Visual Genome needs; by default what the environment variable
                DREAMRL_SCENE_GRAPHS_SKIP_BAD says, 1 or 0.

        Raises:
            WorldError: an option is wrong, a file cannot be read, or no relation is left.
            BadRecord: a record is wrong, unless bad ones are skipped.
        """
        where = root if root is not None else os.environ.get(ROOT_VARIABLE)
        if not where:
            fix = f"give their directory as root or in {ROOT_VARIABLE}"
            raise WorldError(f"scene_graph needs Visual Genome's files; {fix}")
        if patch_size < 8:
            raise WorldError(f"world.patch_size ({patch_size}) must be >= 8: things in smaller pictures cannot be told")
        if min(num_names, num_predicates) < 1 or num_names + num_predicates > MAX_ACTIONS:
            counts = f"num_names ({num_names}) and num_predicates ({num_predicates})"
            raise WorldError(f"{counts} must be at least 1 each and at most {MAX_ACTIONS} together")
        self.patch_size = patch_size
        files = VisualGenomeRelationships(where, skip_bad=skips_bad() if skip_bad is None else skip_bad)
        self.report = files.report
        self.graphs = read_graphs(files.sources(), num_names, num_predicates, self.report)
        if not self.graphs.sources:
            raise WorldError(f"{files.file} holds no relation that can be asked about: {self.report}")
        if self.report.skipped:
            warnings.warn(f"{files.file}: {self.report}", stacklevel=2)
        self.words = Words(self.graphs.names, self.graphs.predicates)
        self.actions = self.words.actions
        self.weights = 1 / np.maximum(self.graphs.counts.sum(0), 1)
        """(names,) how much more likely a rare answer is made."""
        objects = [table[:, OBJECT] for table in self.graphs.relations]
        self._chances = np.cumsum([self.weights[found[found >= 0]].sum() for found in objects])
        self._index = {source.image.id: i for i, source in enumerate(self.graphs.sources)}
        self._splits: dict[int, Split] = {}
        self._scenes: dict[tuple[int, int], GraphScene] = {}
        self._broken: set[int] = set()

    def scene(self, options):
        """See :meth:`World.scene`. Options: ``{"image_id": 2317993}``, and "size" in patches if it is not 8."""
        unknown = sorted(set(options) - {"image_id", "size"})
        if unknown:
            raise WorldError(f"unknown option {json.dumps(unknown[0])}; scene_graph takes {EXAMPLE}")
        if "image_id" not in options:
            raise WorldError(f'"image_id" is missing; give the id of an image, {EXAMPLE}')
        number, size = options["image_id"], options.get("size", self.default_sizes[0])
        for name, value in (("image_id", number), ("size", size)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise WorldError(f'"{name}" must be a whole number as in {EXAMPLE}, got {json.dumps(value)}')
        self._check_size(size)
        if number not in self._index:
            first = self.graphs.sources[0].image.id
            raise WorldError(f'"image_id" ({number}) is no image with a relation in the vocabulary; {first} is one')
        return self._scene(self._index[number], size)

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`; only scenes with a question."""
        self._check_size(size)
        for _ in range(MAX_TRIES):
            index = int(np.searchsorted(self._chances, rng.random() * self._chances[-1], side="right"))
            if index in self._broken or self._splits.get(index, split) is not split:
                continue
            try:
                scene = self._scene(index, size)
            except BadRecord as error:
                self.report.note(error, len(self.graphs.relations[index]))
                self._broken.add(index)
                warnings.warn(f"an image is left out: {error}", stacklevel=2)
                continue
            if self._splits[index] is split and scene.relations:
                return scene
        found = f"{len(self.graphs.sources)} images, {len(self._broken)} of them broken"
        problem = f"no scene of split {split.value} found in {MAX_TRIES} tries among {found}"
        raise WorldError(f"{problem}; give a directory with more images")

    def _check_size(self, size: int) -> None:
        if not self.min_size <= size <= self.max_size:
            raise WorldError(f"size ({size}) must be between {self.min_size} and {self.max_size}")

    def _scene(self, index: int, size: int) -> GraphScene:
        """The scene of an image, from memory if it was made before."""
        if (index, size) not in self._scenes:
            source = self.graphs.sources[index]
            data = read_file(source.path, source.entry, source.field)
            content = content_hash(data)
            self._splits[index] = split_of(content)
            image = decode(data, source.path, source.image, source.entry, source.field)
            picture = fit_patches(image, size, self.patch_size)
            table = self.graphs.relations[index]
            scene = GraphScene(picture, self.patch_size, source.image, content, self.graphs, table)
            if len(self._scenes) >= MAX_CACHED:
                del self._scenes[next(iter(self._scenes))]
            self._scenes[index, size] = scene
        return self._scenes[index, size]

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`: a relation, or two in a row where the picture and ``length`` allow it."""
        if length < 2:
            raise WorldError(f"a dream of {length} step is too short for scene_graph; allow at least 2")
        assert isinstance(scene, GraphScene), scene
        if not scene.relations:
            raise WorldError(f"nothing can be asked about image {scene.image.id}: none of its things is the only one")
        chain = length > 2 and scene.chains and rng.random() < CHAIN_SHARE
        asked = scene.chains if chain else scene.relations
        weights = self.weights[[a.answer for a in asked]]
        subject, predicates, _ = asked[rng.choice(len(asked), p=weights / weights.sum())]
        return self.ask(scene, QuestionKind.PREDICT, rng, self.words.script(subject, predicates))

    def ask(self, scene, kind, rng, script=()):
        """See :meth:`World.ask`; with no ``script``, about any relation of the picture."""
        if not script:
            return self.draw(scene, True, 3, rng)
        parts = self.words.parts(script)
        if parts is None:
            raise WorldError(
                f"no question is about {self.plan_text(script)}; look at a thing, then follow 1 or 2 relations"
            )
        return self._question(scene, self.words.ask(*parts, rng), *parts)

    def _question(self, scene, text: str, subject: int, predicates: tuple[int, ...]) -> Question:
        topic = "relation" if len(predicates) == 1 else "chain"
        script = self.words.script(subject, predicates)
        return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=script, topic=topic)

    def tell(self, question, rollout):
        """See :meth:`World.tell`: the name of what is lit, "nothing" if the last action led nowhere."""
        if len(rollout.states) < 2 or rollout.states[-1] == rollout.states[-2]:
            return NOTHING
        assert isinstance(question.scene, GraphScene), question.scene
        return self.words.answer(question.scene.names[region] for region in rollout.states[-1])

    def verify(self, question, answer):
        """See :meth:`World.verify`; the article and capitals do not matter."""
        plain = " ".join(answer.lower().split()).rstrip(" .")
        if plain and plain != NOTHING:
            plain = f"the {ARTICLE.sub('', plain)}"
        return super().verify(question, plain)

    def interpret(self, text, scene):
        """See :meth:`World.interpret`; None also where the annotations of ``scene`` do not hold the answer."""
        parts = self.words.parse(text)
        if parts is None:
            return None
        if isinstance(scene, GraphScene):
            asked = scene.relations if len(parts[1]) == 1 else scene.chains
            if parts not in [(a.subject, a.predicates) for a in asked]:
                return None
        return self._question(scene, text, *parts)

    def corpus(self):
        """See :meth:`World.corpus`."""
        return self.words.corpus()


def skips_bad() -> bool:
    """What the environment says about bad records; not to skip them unless told so."""
    value = os.environ.get(SKIP_VARIABLE, "0")
    if value not in ("0", "1"):
        raise WorldError(f'{SKIP_VARIABLE} ("{value}") must be 0 or 1')
    return value == "1"
