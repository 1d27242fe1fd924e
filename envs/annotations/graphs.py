"""Scene graphs of many images in little memory, over the most frequent names and predicates.

A relation takes 44 bytes, so the graphs of all of Visual Genome fit into some 100 MB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from envs.annotations.image_set import Source
from envs.annotations.records import Box
from envs.annotations.report import Report

WORDS = re.compile(r"[a-z][a-z'-]*( [a-z][a-z'-]*){0,3}")
"""What a name or predicate must look like to be asked about: one to four plain words."""
SEPARATORS = {"and", "then"}
"""Words that separate actions in a plan; no action is called so."""
SUBJECT, PREDICATE, OBJECT = 0, 5, 6
"""Columns of a relation: subject, its box (left, top, right, bottom), predicate, object, its box."""
COLUMNS = 11


@dataclass(frozen=True)
class Graphs:
    """Images with relations between things whose names, and by predicates, that are in the vocabulary."""

    names: tuple[str, ...]
    """Most frequent first."""
    predicates: tuple[str, ...]
    """Most frequent first."""
    sources: tuple[Source, ...]
    """One for each image that has a relation left, in the order of the file."""
    relations: tuple[np.ndarray, ...]
    """For each image (relations, 11) int32, without repetitions, in the order of the file. An object whose name is
    not in the vocabulary is -1: it cannot be asked about, but something else is then not the only answer."""
    counts: np.ndarray
    """(predicates, names): in how many relations a name is the object of a predicate."""


def plain_predicate(text: str) -> str:
    """A predicate without the verb "to be" before and an article after: "is on a" and "on" are the same."""
    words = text.split()
    if len(words) > 1 and words[0] in ("is", "are"):
        words = words[1:]
    if len(words) > 1 and words[-1] in ("a", "an", "the"):
        words = words[:-1]
    return " ".join(words)


def read_graphs(sources: Iterable[Source], num_names: int, num_predicates: int, report: Report) -> Graphs:
    """The graphs of ``sources`` over the most frequent ``num_names`` names and ``num_predicates`` predicates.

    Relations beyond the vocabulary, repetitions and those of a thing with itself are counted in ``report``; its
    ``used`` are the rest.
    """
    names, predicates = _Numbers(), _Numbers()
    images, tables = [], []
    for source in sources:
        rows = [
            [
                names[r.subject],
                *_corners(r.subject_box),
                predicates[plain_predicate(r.predicate)],
                names[r.object],
                *_corners(r.object_box),
            ]
            for r in source.annotations
        ]
        if rows:
            images.append(Source(source.image, source.path, source.entry, source.field, ()))
            tables.append(np.array(rows, np.int32))
    kept_predicates, new_predicate = predicates.most_frequent([t[:, [PREDICATE]] for t in tables], num_predicates)
    kept_names, new_name = names.most_frequent([t[:, [SUBJECT, OBJECT]] for t in tables], num_names)
    counts = np.zeros((len(kept_predicates), len(kept_names)), np.int64)
    sources_left, relations = [], []
    for source, table in zip(images, tables, strict=True):
        rows = _renamed(table, new_name, new_predicate)
        report.leave_out("rare or long word", len(table) - int((rows[:, OBJECT] >= 0).sum()))
        rare = rows[rows[:, OBJECT] < 0]
        rows = rows[rows[:, OBJECT] >= 0]
        unique = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        report.leave_out("repetition", len(rows) - len(unique))
        rows = rows[unique]
        itself = (rows[:, SUBJECT:PREDICATE] == rows[:, OBJECT:COLUMNS]).all(1)
        report.leave_out("relation with itself", int(itself.sum()))
        rows = rows[~itself]
        if len(rows):
            np.add.at(counts, (rows[:, PREDICATE], rows[:, OBJECT]), 1)
            sources_left.append(source)
            relations.append(np.concatenate([rows, rare]))
            report.used += len(rows)
    return Graphs(kept_names, kept_predicates, tuple(sources_left), tuple(relations), counts)


class _Numbers(dict[str, int]):
    """Numbers words as they come."""

    def __missing__(self, word: str) -> int:
        self[word] = len(self)
        return self[word]

    def most_frequent(self, uses: list[np.ndarray], most: int) -> tuple[tuple[str, ...], np.ndarray]:
        """The words that can be asked about, by frequency and then alphabet; new number of each old one, or -1."""
        counts = np.bincount(np.concatenate([u.ravel() for u in uses]) if uses else [], minlength=len(self))
        fit = [w for w in self if WORDS.fullmatch(w) and not SEPARATORS & set(w.split())]
        kept = sorted((w for w in fit if counts[self[w]]), key=lambda w: (-counts[self[w]], w))[:most]
        numbers = np.full(len(self), -1, np.int32)
        for new, word in enumerate(kept):
            numbers[self[word]] = new
        return tuple(kept), numbers


def _renamed(table: np.ndarray, new_name: np.ndarray, new_predicate: np.ndarray) -> np.ndarray:
    rows = table.copy()
    rows[:, PREDICATE] = new_predicate[rows[:, PREDICATE]]
    rows[:, [SUBJECT, OBJECT]] = new_name[rows[:, [SUBJECT, OBJECT]]]
    return rows[(rows[:, [SUBJECT, PREDICATE]] >= 0).all(1)]


def _corners(box: Box) -> list[int]:
    """Left, top, right, bottom in whole pixels."""
    return [round(v) for v in (box.x, box.y, box.x + box.width, box.y + box.height)]
