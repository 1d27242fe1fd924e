"""The benchmark of long contexts: what its texts ask for, what it scores, and that it learns."""

import json
import math

import pytest
import torch

from dreamrl.bench import context


def test_texts_of_the_bench_ask_for_what_they_state():
    first = context.make_texts(8, 64, 6, torch.Generator().manual_seed(3), repeats=2)
    again = context.make_texts(8, 64, 6, torch.Generator().manual_seed(3), repeats=2)
    assert torch.equal(first.tokens, again.tokens) and first.questions == 12
    body, asked = first.tokens[:, :40], first.tokens[:, 40:].unflatten(1, (12, 2))
    depths = set()
    for text, questions in zip(body.tolist(), asked.tolist(), strict=True):
        stated = {key: (text[i + 1], i) for i, key in enumerate(text) if 16 <= key < 48}
        assert len(stated) == 6 and sum(word >= 48 for word in text) == 6
        depths |= {place for _, place in stated.values()}
        assert sorted(key for key, _ in questions) == sorted([*stated, *stated])
        assert all(stated[key][0] == value for key, value in questions)
    assert len(depths) > 15
    filler, _, _ = context.score(context.ContextModel("rope"), first)
    assert len(filler) == (first.tokens[:, 1:] < 16).sum()


def test_the_bench_scores_answers_where_they_stand():
    texts = context.make_texts(4, 64, 6, torch.Generator().manual_seed(3))

    class Oracle(torch.nn.Module):
        """Knows every next word but the first answer's."""

        def forward(self, tokens, offset):
            logits = 50.0 * torch.nn.functional.one_hot(texts.tokens[:, 1:], 64)
            logits[:, 64 - 12] = 0
            return logits

    filler, answers, right = context.score(Oracle(), texts)
    assert filler.abs().max() < 1e-6 and answers[:, 1:].abs().max() < 1e-6 and right[:, 1:].all()
    assert answers[:, 0].tolist() == pytest.approx([math.log(64)] * 4)


def test_the_bench_learns_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "LENGTHS", (64, 96))
    monkeypatch.setattr(context, "FACTS", 4)
    monkeypatch.setattr(context, "MEASURED_TEXTS", 8)
    monkeypatch.setattr(context, "TUNE_LENGTH", 128)
    monkeypatch.setattr(context, "STAGES", (context.Stage(1.0, 64, 4, 1),))
    monkeypatch.setattr(context, "TOKENS_PER_STEP", 512)
    found = context.bench(("rope", "rope+yarn"), 20, 0, tmp_path)
    untrained = context.measure(context.ContextModel("rope"), 64, 2)["loss"]
    assert found["rope"]["zero_shot"]["64"]["loss"] < untrained - 0.3
    assert found["rope"]["zero_shot"] != found["rope+yarn"]["zero_shot"]
    assert len(list(tmp_path.glob("*.safetensors"))) == 1, "yarn stretches the model that rope trained"
    file = tmp_path / "rope-20-0.json"
    assert json.loads(file.read_text()) == found["rope"]
    file.write_text('{"kept": 1}')
    assert context.bench(("rope",), 20, 0, tmp_path) == {"rope": {"kept": 1}}
    file.unlink()
    assert context.bench(("rope",), 20, 0, tmp_path)["rope"] == found["rope"]
    assert context.bench(("rope",), 20, 0)["rope"] == found["rope"]
