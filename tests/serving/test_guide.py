"""The client of docs/SERVING.md against a server with the model that it names."""

import re
from pathlib import Path

from page import hosted

from dreamrl.saving import load_pretrained
from dreamrl.serving.service import Service
from dreamrl.shipped import model_directory

GUIDE = Path(__file__).parents[2] / "docs" / "SERVING.md"


def test_its_client_is_answered(monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    shown = {}
    with hosted(Service(load_pretrained(model_directory("frozen-lake")), "frozen-lake")) as address:
        monkeypatch.setenv("DREAMRL_SERVER", address)
        for block in blocks:
            exec(block, shown)
    answer, edited = shown["answer"], shown["edited"]
    assert answer["verdict"]["exact"] and answer["confidence"] > 0.5
    seen = shown["seen"]
    assert (seen[:2], seen[-1]) == (["queued", "start"], "answer") and set(seen[2:-1]) == {"steps"}
    assert shown["data"]["text"] == edited["before"]["text"] == answer["text"]
    assert edited["follows"] and edited["after"]["text"] != answer["text"]
    printed = capsys.readouterr().out
    steps = sum(len(dream["steps"]) for dream in answer["dreams"])
    assert len(re.findall(r"^dream \d step \d: \w+, then \w+$", printed, re.M)) == steps
