"""The client of docs/SERVING.md against a server with the model that it names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page import hosted

from dreamrl.saving import load_pretrained
from dreamrl.serving.service import Service
from dreamrl.shipped import model_directory

GUIDE = Path(__file__).parents[2] / "docs" / "SERVING.md"
TOLD = "\nprint(json.dumps([answer, seen, data, edited]))\n"
"""What the test wants to know beyond what the guide prints."""


@pytest.mark.slow
def test_its_client_is_answered():
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    with hosted(Service(load_pretrained(model_directory("frozen-lake")), "frozen-lake")) as address:
        command = [sys.executable, "-c", "\n".join(blocks) + TOLD]
        environment = {**os.environ, "DREAMRL_SERVER": address}
        client = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert client.returncode == 0, client.stderr
    *printed, told = client.stdout.splitlines()
    answer, seen, data, edited = json.loads(told)
    assert answer["verdict"]["exact"] and answer["confidence"] > 0.5 and printed[0].startswith(answer["text"])
    assert (seen[:2], seen[-1]) == (["queued", "start"], "answer") and set(seen[2:-1]) == {"steps"}
    assert data["text"] == edited["before"]["text"] == answer["text"]
    assert edited["follows"] and edited["after"]["text"] != answer["text"]
    steps = sum(len(dream["steps"]) for dream in answer["dreams"])
    assert sum(bool(re.fullmatch(r"dream \d step \d: \w+, then \w+", line)) for line in printed) == steps
