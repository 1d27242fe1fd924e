"""The routes: what they answer, what they refuse, and that the documentation tells the truth."""

import asyncio
import json
import re

import numpy as np
import pytest
from asked import BOARD, PLAN, encoded

from dreamrl.generate import generate
from dreamrl.serving import responses
from dreamrl.serving.app import WEB
from dreamrl.serving.limits import Refused

ASKED = {"prompt": PLAN, "options": BOARD, "dreams": 3, "seed": 2}


def events_of(response):
    """(name, data) of a streamed response."""
    blocks = [block for block in response.text.split("\n\n") if block]
    parts = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    return [(part["event"], json.loads(part["data"])) for part in parts]


def test_an_answer_is_that_of_generate_and_has_the_documented_form(client, loaded):
    response = client.post("/v1/generate", json={**ASKED, "pictures": True, "output": "both"})
    assert response.status_code == 200
    result = response.json()
    responses.ResultShown.model_validate(result)
    alone = generate(loaded, PLAN, scene=BOARD, num_dreams=3, seed=2)
    assert (result["text"], result["focus"]) == (alone["text"], alone["focus"])
    assert result["verdict"]["exact"] == alone["verdict"].exact
    assert result["image"].startswith("data:image/png;base64,") and result["picture"].startswith("data:")


def test_a_stream_grows_into_the_same_answer(client):
    plain = client.post("/v1/generate", json=ASKED).json()
    response = client.post("/v1/stream", json=ASKED)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response)
    names = [name for name, _ in events]
    assert names[:2] == ["queued", "start"] and names[-1] == "answer" and set(names[2:-1]) == {"steps"}
    answer = events[-1][1]
    for key in plain.keys() - {"seconds", "batch"}:
        assert answer[key] == plain[key]
    steps = [step for name, data in events if name == "steps" for step in data["steps"]]
    assert len(steps) == plain["graph"]["num_nodes"]
    assert sorted((s["dream"], s["step"]) for s in steps) == [
        (node["dream"], node["step"]) for node in plain["graph"]["nodes"]
    ]


def test_what_the_others_show_has_the_documented_form(client):
    worlds = responses.WorldsShown.model_validate(client.get("/v1/worlds").json())
    assert [world.name for world in worlds.worlds] == ["frozen_lake"] and worlds.worlds[0].editor == "board"
    scene = responses.SceneShown.model_validate(client.post("/v1/scene", json={"options": BOARD}).json())
    assert scene.options == BOARD and scene.grid == [4, 4] and scene.questions[0] == PLAN
    responses.HealthShown.model_validate(client.get("/v1/health").json())
    edit = {"dream": 0, "step": 0, "action": "up"}
    edited = client.post("/v1/edit", json={**ASKED, "edits": [edit]})
    responses.EditShown.model_validate(edited.json())


def test_a_seed_shows_the_scene_that_is_asked_about(client):
    scene = client.post("/v1/scene", json={"seed": 7}).json()
    by_seed = client.post("/v1/generate", json={"seed": 7, "prompt": PLAN}).json()
    by_options = client.post("/v1/generate", json={"seed": 7, "prompt": PLAN, "options": scene["options"]}).json()
    assert by_seed["dreams"] == by_options["dreams"] and by_seed["text"] == by_options["text"]
    sized = client.post("/v1/scene", json={"seed": 7, "size": 8}).json()
    assert sized["grid"] == [8, 8]


def test_a_picture_is_dreamed_about_and_nothing_is_checked(client, loaded):
    scene = loaded.world.scene(BOARD)
    picture = encoded(scene.frame(scene.start))
    result = client.post("/v1/generate", json={"images": [picture], "prompt": PLAN, "dreams": 2}).json()
    assert result["verdict"] is None and result["rewards"] is None
    assert all(step["faithful"] is None for dream in result["dreams"] for step in dream["steps"])


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"dreams": 99}, 422, "dreams: Input should be less than or equal to 32"),
        ({"dreamz": 1}, 422, "dreamz: Extra inputs"),
        ({"world": "moon"}, 400, 'world ("moon") must be one of frozen_lake'),
        ({"options": {"desc": ["SX", "FG"]}}, 400, 'unknown letter "X"'),
        ({"options": {"desc": ["SH", "HG"]}}, 400, "has no path from S to G"),
        ({"size": 12}, 400, "world.sizes ([12])"),
        ({"images": ["AAAA"]}, 400, "images[0] is no picture"),
        ({"images": ["AAAA"], "options": BOARD}, 400, "contradict each other"),
        ({"prompt": "way " * 100}, 400, "longer than"),
        ({"prompt": "x" * 501}, 422, "prompt: String should have at most 500"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/generate", "/v1/stream"])
def test_mistakes_are_refused_with_the_reason(client, path, body, status, reason):
    response = client.post(path, json=body)
    assert response.status_code == status
    assert list(response.json()) == ["error"] and reason in response.json()["error"]


def test_what_is_no_json_and_what_does_not_exist_is_refused(client):
    headers = {"content-type": "application/json"}
    assert client.post("/v1/generate", content=b"{", headers=headers).status_code == 422
    assert client.post("/v1/generate", content=b"[" * 100_000, headers=headers).status_code in (400, 422)
    assert client.get("/v1/generate").status_code == 405
    for path in ("/nothing", "/web/none.js", "/web/..%2Fapp.py", "/web/../app.py", "/web/%2e%2e/app.py"):
        assert client.get(path).status_code == 404 and "error" in client.get(path).json()


class Broken:
    """A backend that fails."""

    async def generate(self, request):
        raise RuntimeError("a secret path")

    async def worlds(self):
        raise Refused(503, "no replica answers")


def test_bugs_are_told_without_details_and_overload_with_a_hint(make_client):
    client = make_client(Broken())
    response = client.post("/v1/generate", json={})
    assert response.status_code == 500 and "secret" not in response.text
    assert client.get("/v1/worlds").headers["retry-after"] == "1"


def test_metrics_count_what_came(make_client):
    client = make_client()
    client.post("/v1/generate", json=ASKED)
    client.post("/v1/generate", json={"dreams": 99})
    client.get("/somewhere/else")
    text = client.get("/v1/metrics").text
    assert 'dreamrl_requests_total{route="/v1/generate",status="200"} 1\n' in text
    assert 'dreamrl_requests_total{route="/v1/generate",status="422"} 1\n' in text
    assert 'dreamrl_requests_total{route="other",status="404"} 1\n' in text
    assert 'dreamrl_request_seconds_count{route="/v1/generate"} 2\n' in text
    assert 'dreamrl_answers_total{batch="1"} 1\n' in text
    quantiles = re.findall(r'seconds\{route="/v1/generate",quantile="0.(?:5|95)"\} ([\d.]+)', text)
    assert 0 < float(quantiles[0]) <= float(quantiles[1])


def test_the_api_documents_every_field(client):
    document = client.get("/openapi.json").json()
    assert sorted(document["paths"]) == [
        f"/v1/{name}" for name in ("edit", "generate", "health", "metrics", "scene", "stream", "worlds")
    ]
    fields = document["components"]["schemas"]["GenerateRequest"]["properties"]
    assert all("description" in field for field in fields.values())
    result = document["paths"]["/v1/generate"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert result == {"$ref": "#/components/schemas/ResultShown"}


def test_the_page_loads_nothing_from_elsewhere_and_all_that_it_names_exists(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    files = {path.name: path.read_text(encoding="utf-8") for path in WEB.iterdir()}
    for name, text in files.items():
        assert client.get(f"/web/{name}").text == text
        assert not re.findall(r"(?:src|href)=\"https?:|url\(['\"]?https?:|import .*https?:", text), name
        assert "innerHTML" not in text and " style=" not in text
    for named in re.findall(r'(?:src|href)="/web/([^"]+)"', files["index.html"]):
        assert named in files
    for name, text in files.items():
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in files, name


def test_many_at_once_get_what_each_gets_alone(service):
    requests = [{"seed": seed, "dreams": 1 + seed % 4, "prompt": PLAN} for seed in range(12)]

    async def all_at_once():
        return await asyncio.gather(*(service.generate(request) for request in requests))

    async def one_by_one():
        return [await service.generate(request) for request in requests]

    together, alone = asyncio.run(all_at_once()), asyncio.run(one_by_one())
    assert max(result["batch"] for result in together) > 1
    for ours, theirs in zip(together, alone, strict=True):
        assert [ours[k] for k in ("text", "focus")] == [theirs[k] for k in ("text", "focus")]
        assert np.isclose(ours["confidence"], theirs["confidence"], atol=2e-4)
