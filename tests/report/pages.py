"""What the tests of reports share: a parsed page, a run made by hand, a question made by hand."""

import json
from html.parser import HTMLParser

import numpy as np

from dreamrl.report.markup import VOID
from dreamrl.report.questions import Shown
from dreamrl.saving import save_pretrained
from dreamrl.settings import write_yaml
from dreamrl.types import Dream, Triplet
from envs.world import Verdict

EXACT = Verdict(exact=True, progress=1.0, valid=True, success=True)
WRONG = Verdict(exact=False, progress=0.5, valid=True, success=False)


class Element:
    def __init__(self, name, attributes, parent):
        self.name, self.attributes, self.parent, self.content = name, attributes, parent, []

    @property
    def children(self):
        return [part for part in self.content if isinstance(part, Element)]

    @property
    def text(self):
        """Its own text, without that of its children."""
        return "".join(part for part in self.content if isinstance(part, str))

    def walk(self):
        yield self
        for child in self.children:
            yield from child.walk()

    def all(self, name=None, style=None):
        """Elements below with this name and class, in order."""
        return [
            e
            for e in self.walk()
            if (name is None or e.name == name) and (style is None or style in e.attributes.get("class", "").split())
        ]

    def one(self, name=None, style=None):
        (found,) = self.all(name, style)
        return found

    def words(self):
        """All text below, in order."""
        return "".join(part if isinstance(part, str) else part.words() for part in self.content)


class Parser(HTMLParser):
    """Builds a tree; an end tag that closes another element than the last one opened is an error."""

    def __init__(self):
        super().__init__()
        self.root = self.here = Element("root", {}, None)

    def handle_starttag(self, tag, attrs):
        assert len({key for key, _ in attrs}) == len(attrs), (tag, attrs)
        element = Element(tag, {key: "" if value is None else value for key, value in attrs}, self.here)
        self.here.content.append(element)
        if tag not in VOID:
            self.here = element

    def handle_endtag(self, tag):
        assert tag == self.here.name, (tag, self.here.name)
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.content.append(data)


def parsed(text):
    parser = Parser()
    parser.feed(text)
    parser.close()
    assert parser.here is parser.root, f"{parser.here.name} is not closed"
    return parser.root


def metrics(seed=0, episodes=(8, 16, 24)):
    """Lines of metrics.jsonl: two steps of pretraining, three updates of PPO."""
    lines = []
    for step in (10, 20):
        values = {f"pretrain/expert_usage/{i}": 0.25 for i in range(4)} | {"pretrain/loss/total": 30.0 / step}
        lines.append({"stage": "pretrain", "step": step, "pretrain/max_vio": 0.5, **values})
    for step, count in enumerate(episodes, start=1):
        values = {f"ppo/{name}": 0.2 * step + 0.05 * seed for name in ("exact_match", "success", "faithfulness")}
        values |= {"ppo/progress": 0.1 * step - 0.3, "ppo/episodes": count, "ppo/max_vio": 0.1, "ppo/grad_norm": None}
        lines.append({"stage": "ppo", "step": step, **values})
    return "".join(json.dumps(line) + "\n" for line in lines)


def save_run(directory, loaded, seed=0):
    """A directory as a run leaves it, without its summary."""
    directory.mkdir(parents=True)
    write_yaml(loaded.run, directory / "config.yaml")
    (directory / "metrics.jsonl").write_text(metrics(seed))
    save_pretrained(loaded, directory / "model")
    return directory


def picture(*values):
    """A row of patches of 4 pixels, each of one grey."""
    return np.repeat(np.repeat(np.array([values], np.uint8), 4, 0), 4, 1)[..., None].repeat(3, 2)


def triplet(true=(0, 90, 0), dreamed=None, action="right", belief="success"):
    dreamed = true if dreamed is None else dreamed
    return Triplet(
        what=picture(90, 0, 0),
        action=action,
        result=picture(*dreamed),
        belief=belief,
        true_result=picture(*true),
        faithful=dreamed == true,
        experts=(0.75, 0.0, 0.25),
    )


def places(step):
    """Patches of 4 pixels in which a triplet's two results differ."""
    wrong = (step.result != step.true_result)[::4, ::4].any(-1)
    return tuple((int(row), int(column)) for row, column in np.argwhere(wrong))


def question(dreams=None, verdict=EXACT, number=0, **changes):
    """A question with two dreams of one step; what it answers was read from the second."""
    dreams = dreams or [[triplet()], [triplet(action="down")]]
    made = tuple(Dream(triplets=tuple(steps), value=0.5, focus=n == len(dreams) - 1) for n, steps in enumerate(dreams))
    nodes = [
        {"dream": n, "step": t, "action": step.action, "belief": step.belief}
        for n, steps in enumerate(dreams)
        for t, step in enumerate(steps)
    ]
    edges = [
        {"source": 0, "target": 1, "type": "sibling", "weight": 0.6},
        {"source": 1, "target": 0, "type": "learned_5", "weight": 0.4},
        {"source": 1, "target": 0, "type": "next", "weight": 0.0},
    ]
    values = {
        "number": number,
        "question": "Which way?",
        "size": "1x3",
        "part": "",
        "answer": "right",
        "right": "down",
        "confidence": 0.9,
        "verdict": verdict,
        "dreams": made,
        "differs": tuple(tuple(map(places, steps)) for steps in dreams),
        "rewards": tuple({"faithfulness": 1.0, "coherence": 0.5} for _ in made),
        "graph": {"num_nodes": len(nodes), "num_edges": len(edges), "nodes": nodes, "edges": edges},
        "patch": 4,
        "reason": None if verdict.exact else "astray",
    }
    return Shown(**(values | changes))
