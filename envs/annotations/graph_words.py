"""Scene graphs in words: names of actions, questions about relations, and answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

NOTHING = "nothing"
"""The answer when the last action leads nowhere."""
ARTICLE = re.compile(r"^(the|a|an) ")
PLURALS = {"people", "men", "women", "children", "feet", "teeth", "sheep"}
PREPOSITIONS = set(
    """about above across after against along alongside amid among around as at atop away before behind below beneath
    beside between beyond by down for from full in inside into like near next of off on onto opposite out outside over
    part past through throughout to together toward towards under underneath up upon via with within without"""
    """ close left right surrounded hung made seen shown worn built written""".split()
)
"""Beginnings of predicates that follow "is", besides words in -ing and -ed; the others are verbs ("wears")."""
IS, VERB = True, False
ONE = {
    IS: ("What {be} the {s} {p}?", "The {s} {be} {p} what?", "Say what the {s} {be} {p}."),
    VERB: ("What is it that the {s} {p}?", "The {s} {p} what?", "Say what the {s} {p}."),
}
FIRST = {IS: "The {s} {be} {p} something.", VERB: "The {s} {p} something."}
SECOND = {
    IS: ("What is that thing {q}?", "That thing is {q} what?"),
    VERB: ("That thing {q} what?", "Say what that thing {q}."),
}


def follows_is(predicate: str) -> bool:
    """Whether one says "is PREDICATE", as in "is next to", and not "wears"."""
    first = predicate.split()[0]
    return first in PREPOSITIONS or first.endswith(("ing", "ed"))


def be(name: str) -> str:
    """The verb that goes with a thing of this ``name``, is or are."""
    last = name.split()[-1]
    return "are" if last in PLURALS or re.search(r"[^sui]s$", last) else "is"


class Words:
    """The language of one vocabulary."""

    def __init__(self, names: Sequence[str], predicates: Sequence[str]):
        """Args: ``names`` of things and ``predicates``, each in the order of their actions."""
        self.names, self.predicates = tuple(names), tuple(predicates)
        self.actions = (*(f"look at the {name}" for name in names), *self.predicates)
        self.forms = [follows_is(p) for p in predicates]
        self._name_numbers = {name: i for i, name in enumerate(names)}
        self._predicate_numbers = {predicate: i for i, predicate in enumerate(predicates)}
        self._patterns = [re.compile(p) for p in self._pattern_texts()]

    def templates(self, predicates: Sequence[int]) -> list[str]:
        """The paraphrases of a question about one predicate or two in a row."""
        first = self.forms[predicates[0]]
        if len(predicates) == 1:
            return list(ONE[first])
        return [f"{FIRST[first]} {second}" for second in SECOND[self.forms[predicates[1]]]]

    def script(self, subject: int, predicates: Iterable[int]) -> tuple[int, ...]:
        """Look at ``subject``, then follow the ``predicates``, as actions."""
        return (subject, *(len(self.names) + p for p in predicates))

    def parts(self, script: Sequence[int]) -> tuple[int, tuple[int, ...]] | None:
        """Subject and predicates of a ``script`` that a question can be about; None for others."""
        predicates = tuple(int(action) - len(self.names) for action in script[1:])
        if len(script) not in (2, 3) or script[0] >= len(self.names) or min(predicates) < 0:
            return None
        return int(script[0]), predicates

    def question(self, subject: int, predicates: Sequence[int], paraphrase: int) -> str:
        """The text of a question; ``paraphrase`` counts from 0 and goes round."""
        name = self.names[subject]
        templates = self.templates(predicates)
        following = self.predicates[predicates[-1]]
        template = templates[paraphrase % len(templates)]
        return template.format(s=name, be=be(name), p=self.predicates[predicates[0]], q=following)

    def ask(self, subject: int, predicates: Sequence[int], rng: np.random.Generator) -> str:
        """A question in one of its paraphrases."""
        return self.question(subject, predicates, int(rng.integers(len(self.templates(predicates)))))

    def parse(self, text: str) -> tuple[int, tuple[int, ...]] | None:
        """Subject and predicates that ``text`` asks about; None if it is none of the questions."""
        plain = " ".join(text.lower().split()).rstrip(" .?!")
        for pattern in self._patterns:
            found = pattern.fullmatch(plain)
            if found:
                words = found.groupdict()
                predicates = [words[group] for group in "pq" if group in words]
                return self._name_numbers[words["s"]], tuple(self._predicate_numbers[p] for p in predicates)
        return None

    def answer(self, names: Iterable[int]) -> str:
        """All that is lit, such as "the car"."""
        return " and ".join(f"the {self.names[name]}" for name in sorted(set(names)))

    def corpus(self) -> list[str]:
        """Every pair of words that questions put together, each paraphrase, and every answer."""
        texts = [NOTHING, *self.actions, *(self.answer([i]) for i in range(len(self.names)))]
        count = len(self.names)
        for p in range(len(self.predicates)):
            texts += [self.question(s, (p,), s) for s in range(count)]
            texts += [self.question((p + q) % count, (p, q), p) for q in range(len(self.predicates))]
        return texts

    def _pattern_texts(self) -> list[str]:
        names = "|".join(map(re.escape, self.names))
        kinds = {
            form: "|".join(re.escape(p) for p, f in zip(self.predicates, self.forms, strict=True) if f is form)
            for form in (IS, VERB)
        }

        def pattern(template: str, p: str, q: str) -> str:
            parts = {"{s}": f"(?P<s>{names})", "{be}": "(?:is|are)", "{p}": f"(?P<p>{p})", "{q}": f"(?P<q>{q})"}
            plain = template.lower().rstrip(".?")
            for hole, group in parts.items():
                plain = plain.replace(hole, group)
            return plain

        known = [form for form in (IS, VERB) if kinds[form]]
        texts = [pattern(t, kinds[form], "") for form in known for t in ONE[form]]
        for first in known:
            for second in known:
                texts += [pattern(f"{FIRST[first]} {t}", kinds[first], kinds[second]) for t in SECOND[second]]
        return texts
