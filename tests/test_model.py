"""The face of the model: how it is made, trained by hand, saved and asked, without Ray."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamrl import DreamingReasoningLLM
from dreamrl.config import ConfigError, DreamingConfig, PretrainConfig
from dreamrl.errors import UserError
from dreamrl.metrics import explain
from dreamrl.model import Assets
from dreamrl.saving import weights
from envs.world import WorldError

SMALL = DreamingConfig(
    embedding_dim=16,
    num_heads=2,
    codec_hidden=16,
    num_dream_sequences=3,
    dream_length=4,
    num_experts=2,
    max_prompt_tokens=24,
    max_answer_tokens=12,
)


def small(codec_steps=20, **options):
    """A small model whose codec is trained in a moment."""
    model = DreamingReasoningLLM(SMALL, **options)
    run = replace(model.assets.run, pretrain=PretrainConfig(codec_steps=codec_steps))
    model.assets = model.assets._replace(run=run)
    return model


def test_without_arguments_it_is_the_nano_preset():
    model = DreamingReasoningLLM()
    assert model.config == DreamingConfig() == model.assets.run.model
    assert model.num_actions == 4 and model.assets.world.name == "frozen_lake"
    assert not model.training and model.device == torch.device("cpu")


def test_arguments_replace_what_the_config_says():
    model = DreamingReasoningLLM(SMALL, 32, 300, False)  # in the order of the signature
    assert model.config == replace(SMALL, embedding_dim=32, vocab_size=300, use_ppo=False)
    assert model.assets.text.vocab_size == model.vocab_size == 300
    assert model.input_tokenizer.text.weight.shape == (300, 32)
    assert SMALL.embedding_dim == 16 and DreamingReasoningLLM(SMALL).config == SMALL


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second, other = (weights(DreamingReasoningLLM(SMALL, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(not torch.equal(first[name], other[name]) for name in first) > len(first) / 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"embedding_dim": 20}, ConfigError, r"model.embedding_dim \(20\) must be a multiple of 4 \* num_heads \(8\)"),
        ({"vocab_size": 100}, ConfigError, r"model.vocab_size \(100\) must be between 260 and"),
        ({"world": "frozenlake"}, WorldError, 'unknown world "frozenlake"; did you mean "frozen_lake"'),
    ],
)
def test_what_cannot_be_built_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        DreamingReasoningLLM(SMALL, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_a_warning_where_it_was_asked_for(tmp_path):
    with pytest.warns(UserWarning, match=r'device "cuda" is not available; using the CPU') as caught:
        model = DreamingReasoningLLM(SMALL, device="cuda")
    assert [warning.filename for warning in caught] == [__file__]
    assert model.device == torch.device("cpu")
    model.save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="using the CPU") as caught:
        assert DreamingReasoningLLM.load_pretrained(tmp_path / "model", "cuda:0").device == torch.device("cpu")
    assert [warning.filename for warning in caught] == [__file__]


def test_a_loop_written_by_hand_lowers_the_loss():
    model = small(codec_steps=60)
    batches = list(model.batches(31, scenes=4))
    held_out = batches.pop()
    with torch.no_grad():
        before, parts = model.compute_loss(held_out)
    torch.testing.assert_close(before, torch.stack([v for k, v in parts.items() if k.startswith("loss/")]).sum())
    for name in parts:
        assert explain(f"pretrain/{name}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in batches:
        loss, _ = model.compute_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        after, learned = model.compute_loss(held_out)
    assert float(after) < 0.5 * float(before)
    for name in ("loss/frame", "loss/answer", "loss/belief", "loss/picture"):
        assert float(learned[name]) < 0.8 * float(parts[name]), name


def test_batches_are_those_of_the_seed():
    first, second = (list(small().batches(2, scenes=3)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(first[0]["noise_seed"], first[1]["noise_seed"])


def test_ppo_steps_go_on_from_each_other():
    model = small(enable_rl=True)
    ppo = replace(model.assets.run.ppo, questions_per_iteration=4, minibatch_size=4, num_learners=0, replay_scenes=1)
    model.assets = model.assets._replace(run=replace(model.assets.run, ppo=ppo))
    before = {name: p.clone() for name, p in model.named_parameters()}
    first = model.train_step_rl()
    assert {"exact_match", "policy_loss", "approx_kl"} <= first.keys()
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    trainer = model.trainer
    model.train_step_rl()
    assert model.trainer is trainer and trainer.iteration == 2


def test_a_model_made_without_rl_says_so():
    with pytest.raises(ValueError, match=r"enable_rl=False .*; make it with enable_rl=True"):
        DreamingReasoningLLM(SMALL, enable_rl=False).train_step_rl()


def same_results(ours, theirs):
    """Of :meth:`generate`, pictures and all."""
    plain = ("text", "graph_data", "rewards", "confidence", "verdict", "question", "focus", "warnings")
    assert {k: ours[k] for k in plain} == {k: theirs[k] for k in plain}
    assert np.array_equal(np.asarray(ours["image"]), np.asarray(theirs["image"]))
    for mine, other in zip(ours["dreams"], theirs["dreams"], strict=True):
        assert (mine.value, mine.focus, mine.actions) == (other.value, other.focus, other.actions)
        for a, b in zip(mine.triplets, other.triplets, strict=True):
            assert np.array_equal(a.result, b.result) and (a.belief, a.experts) == (b.belief, b.experts)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_dream_memory": True, "expert_types": ("temporal", "causal"), "use_cross_expert_attention": True},
        {"use_learned_edges": True, "use_node_memory": True, "positions": "alibi", "load_balance": "bias"},
        {"vision_backbone": "lite", "use_contrastive_loss": True, "positions": "learned", "attention": "sparsemax"},
    ],
    ids=["default", "memory", "graph", "vision"],
)
def test_a_model_that_was_saved_answers_the_same(make_loaded, tmp_path, changes):
    model = make_loaded(model=changes).model
    model.save_pretrained(tmp_path / "model")
    again = DreamingReasoningLLM.load_pretrained(tmp_path / "model")
    assert again.config == model.config and not again.training
    for seed in range(2):
        asked = {"seed": seed, "return_dreams": True, "output_mode": "both", "temperature": 1.0}
        same_results(model.generate(**asked), again.generate(**asked))


def test_dreams_are_returned_if_asked_for(loaded):
    short, long = loaded.model.generate(seed=1), loaded.model.generate(seed=1, return_dreams=True)
    assert "dreams" not in short and len(long.pop("dreams")) == 3
    assert short == long


def test_thinking_can_be_looked_at(loaded, tmp_path):
    """Filmstrips above the graph, as large as both together, and the same picture in the file."""
    from dreamrl.filmstrip import filmstrip
    from dreamrl.graph_view import draw_graph

    sheet = loaded.model.visualize_thinking(save=tmp_path / "new" / "thoughts.png", seed=2, num_dreams=2)
    result = loaded.model.generate(return_dreams=True, seed=2, num_dreams=2)
    graph = draw_graph(result["graph_data"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "thoughts.png")), np.asarray(sheet))
    assert np.array_equal(np.asarray(sheet)[-graph.height :, : graph.width], np.asarray(graph.convert("RGB")))
    words = (result["question"], result["text"], "not a plan that can be followed, so it counts as wrong")
    strip = np.asarray(filmstrip(result["dreams"], *words, patch_size=16))
    assert np.array_equal(np.asarray(sheet)[: strip.shape[0], : strip.shape[1]], strip)


def test_assets_that_were_made_before_are_used_as_they_are(loaded):
    model = DreamingReasoningLLM(assets=Assets(loaded.run, loaded.world, loaded.text))
    assert model.config is loaded.run.model and model.loaded.world is loaded.world and model.loaded.text is loaded.text
    assert model.loaded.model is model


@pytest.mark.parametrize("directory", ["none", "file"])
def test_a_directory_without_a_model_is_refused(tmp_path, directory):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="give the model/ directory of a run"):
        DreamingReasoningLLM.load_pretrained(tmp_path / directory)


PLAIN = """
import sys
sys.modules["ray"] = None  # importing it fails from here on
from dataclasses import replace
from dreamrl import DreamingReasoningLLM
from dreamrl.config import DreamingConfig, PPOConfig, PretrainConfig
model = DreamingReasoningLLM(DreamingConfig(embedding_dim=16, num_heads=2, codec_hidden=16, dream_length=2))
ppo = PPOConfig(questions_per_iteration=2, minibatch_size=2, num_learners=0, replay_scenes=1)
model.assets = model.assets._replace(run=replace(model.assets.run, pretrain=PretrainConfig(codec_steps=2), ppo=ppo))
for batch in model.batches(1, scenes=2):
    model.compute_loss(batch)[0].backward()
model.train_step_rl()
model.generate(output_mode="both")
model.save_pretrained("model")
assert DreamingReasoningLLM.load_pretrained("model").generate()["text"] == model.generate()["text"]
"""


@pytest.mark.slow
def test_all_of_it_runs_where_ray_is_not_installed(tmp_path):
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", PLAIN], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
