"""One annotated photograph under a spotlight, as a scene; see :mod:`envs.worlds.scene_graphs`."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np

from envs.annotations.graphs import OBJECT, PREDICATE, SUBJECT, Graphs
from envs.annotations.records import ImageInfo
from envs.scene import Outcome, Scene

MIN_COVER = 1 / 4
"""Share of a patch that a box must cover to light it; if there is none, the patch that it covers most is lit."""
DIM = 4
"""Brightness of what is not lit, in tenths: where the light is and what lies outside of it must both be seen."""


class Asked(NamedTuple):
    """What a question can be about: look at a thing, follow relations, and what is lit then."""

    subject: int
    """The name that is looked at; only one thing in the picture has it."""
    predicates: tuple[int, ...]
    answer: int
    """The name of everything that is lit in the end."""


class GraphScene(Scene):
    """A picture, its regions and their relations.

    The state is a sorted tuple of the regions that are lit, empty at the start, where the whole picture is. Things
    with the same name on the same patches are one region. A thing on the same patches as one of another name cannot
    be told apart under the light, and one that covers the whole picture cannot be told from the start: both are left
    out with their relations. Nothing is asked where such a thing would be meant by the question, or be an answer, too.
    """

    def __init__(self, picture: np.ndarray, patch_size: int, image: ImageInfo, content: str, graphs: Graphs, table):
        """Args: ``picture`` uint8 of whole patches, ``image``, hash of its file's ``content``, relations ``table``."""
        self.picture, self.patch_size, self.image = picture, patch_size, image
        self.grid = (picture.shape[0] // patch_size, picture.shape[1] // patch_size)
        self.start: tuple[int, ...] = ()
        self.num_names = len(graphs.names)
        self.names: list[int] = []
        """Name of each region."""
        self.masks: list[np.ndarray] = []
        """Patches of each region, bool (rows, columns)."""
        self.edges: dict[tuple[int, int], tuple[int, ...]] = {}
        """Regions that a region and a predicate lead to, sorted."""
        self._unclear: set[tuple[int, int]] = set()
        """Regions and predicates that lead also to something that is left out."""
        self._unclear_names: set[int] = set()
        """Names that something left out has, too."""
        self._add_relations(table)
        self.by_name: dict[int, tuple[int, ...]] = {}
        for region, name in enumerate(self.names):
            self.by_name[name] = (*self.by_name.get(name, ()), region)
        predicates = {predicate for _, predicate in self.edges}
        self.legal = (*sorted(self.by_name), *sorted(self.num_names + p for p in predicates))
        words = [
            [graphs.names[self.names[s]], graphs.predicates[p], [graphs.names[self.names[o]] for o in objects]]
            for (s, p), objects in sorted(self.edges.items())
        ]
        described = json.dumps([content, self.grid, patch_size, words, [m.tolist() for m in self.masks]])
        self.key = hashlib.blake2b(described.encode(), digest_size=16).hexdigest()
        self.relations = self._relations()
        """Questions of one relation."""
        self.chains = self._chains()
        """Questions of two relations, one after the other."""

    def _add_relations(self, table: np.ndarray) -> None:
        known: dict[bytes, int] = {}
        for row in table.tolist():
            subject = self._region(row[SUBJECT], row[SUBJECT + 1 : PREDICATE], known)
            target = self._region(row[OBJECT], row[OBJECT + 1 :], known)
            if subject is None or subject == target:
                continue
            start = subject, row[PREDICATE]
            if target is None:
                self._unclear.add(start)
            else:
                self.edges[start] = tuple(sorted({*self.edges.get(start, ()), target}))

    def _region(self, name: int, corners: list[int], known: dict[bytes, int]) -> int | None:
        """The region of a thing; None if it cannot be told apart or has no name in the vocabulary."""
        if name < 0:
            return None
        mask = patches_of(corners, self.image, self.grid)
        key = mask.tobytes()
        if not mask.all() and key not in known:
            known[key] = len(self.names)
            self.names.append(name)
            self.masks.append(mask)
        if key in known and self.names[known[key]] == name:
            return known[key]
        self._unclear_names.add(name)
        return None

    def _relations(self) -> list[Asked]:
        asked = []
        for (subject, predicate), targets in sorted(self.edges.items()):
            name, answer = self.names[subject], self._one_name(subject, predicate, targets)
            only = len(self.by_name[name]) == 1 and name not in self._unclear_names
            if only and answer is not None:
                asked.append(Asked(name, (predicate,), answer))
        return asked

    def _chains(self) -> list[Asked]:
        asked = []
        for first in self.relations:
            (subject,) = self.by_name[first.subject]
            reached = self.edges[subject, first.predicates[0]]
            if len(reached) != 1:
                continue
            for (region, predicate), targets in sorted(self.edges.items()):
                answer = self._one_name(region, predicate, targets)
                back = subject in targets
                if region == reached[0] and answer is not None and not back:
                    asked.append(Asked(first.subject, (first.predicates[0], predicate), answer))
        return asked

    def _one_name(self, region: int, predicate: int, targets: tuple[int, ...]) -> int | None:
        """The name of everything that ``predicate`` leads to; None if there are several."""
        names = {self.names[t] for t in targets}
        return names.pop() if len(names) == 1 and (region, predicate) not in self._unclear else None

    def step(self, state, action):
        """See :meth:`Scene.step`."""
        if action < self.num_names:
            found = self.by_name.get(action, ())
        else:
            found = tuple(sorted({t for s in state for t in self.edges.get((s, action - self.num_names), ())}))
        return found or state, Outcome.CONTINUE

    def frame(self, state):
        """See :meth:`Scene.frame`."""
        if not state:
            return self.picture
        lit = np.logical_or.reduce([self.masks[region] for region in state])
        lit = lit.repeat(self.patch_size, 0).repeat(self.patch_size, 1)[:, :, None]
        dimmed = (self.picture.astype(np.uint16) * DIM // 10).astype(np.uint8)
        return np.where(lit, self.picture, dimmed)

    def distance(self, state):
        """Unknown: there is no goal."""
        return None


def patches_of(corners: list[int], image: ImageInfo, grid: tuple[int, int]) -> np.ndarray:
    """The patches that a box (left, top, right, bottom in the image's pixels) lights, bool (rows, columns)."""
    rows, columns = grid
    left, top, right, bottom = corners
    across = _cover(left * columns / image.width, right * columns / image.width, columns)
    down = _cover(top * rows / image.height, bottom * rows / image.height, rows)
    cover = np.outer(down, across)
    mask = cover >= MIN_COVER
    if not mask.any():
        mask.flat[int(cover.argmax())] = True
    return mask


def _cover(begin: float, end: float, cells: int) -> np.ndarray:
    """Share of each of ``cells`` unit intervals from 0 that lies between ``begin`` and ``end``."""
    starts = np.arange(cells)
    return np.clip(np.minimum(end, starts + 1) - np.maximum(begin, starts), 0, 1)
