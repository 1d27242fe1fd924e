"""Where and how a run computes: settings, bfloat16 whose PPO ratio begins at 1, and nothing that assumes the CPU."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dreamrl import machine, policy, preflight
from dreamrl.columns import ACTION_LOGP, DREAM_LOGP, OBS
from dreamrl.config import ConfigError, PPOConfig, WorldConfig
from dreamrl.data import RandomPlay
from dreamrl.device import Compute, as_floats, chosen, compile_blocks, compute_of, for_answers, takes_gpus
from dreamrl.errors import UserError
from dreamrl.losses import codec_loss, pretrain_loss
from dreamrl.nn.layers import Block
from dreamrl.ppo import PPOTrainer
from dreamrl.ppo_loss import ppo_loss
from dreamrl.saving import weights
from dreamrl.settings import completed, load_settings, read_yaml, to_dict, write_yaml
from envs.world import Outcome

CPU = torch.device("cpu")
KINDS = {
    "default": {},
    "everything": {
        "stochastic_results": True,
        "use_dream_memory": True,
        "expert_types": ("spatial", "temporal", "causal", "abstract"),
        "use_cross_expert_attention": True,
        "use_learned_edges": True,
        "use_node_memory": True,
        "vision_backbone": "lite",
        "use_contrastive_loss": True,
        "use_picture_reading": True,
        "positions": "alibi",
        "moe_noise_std": 1.0,
        "token_masking": 0.3,
        "embedding_dropout": 0.1,
    },
    "sparse": {"attention": "sparsemax", "moe_gating": "sparsemax", "positions": "rope+yarn", "yarn_factor": 2.0},
}
TINY = PPOConfig(
    iterations=10, questions_per_iteration=4, minibatch_size=6, replay_scenes=2, num_learners=0, predict_share=0.3
)


@pytest.fixture(scope="module")
def make(make_loaded):
    def make(kind="default", **run):
        loaded = make_loaded(3, KINDS[kind], world=WorldConfig(sizes=(2, 3)), ppo=TINY)
        with torch.no_grad():
            loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 2.0  # dreams of several steps
        return replace(loaded, run=replace(loaded.run, **run))

    return make


def random_play(loaded):
    return RandomPlay(loaded.run, loaded.world, loaded.text, loaded.model.codec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device=tpu", "device (tpu) must be one of auto, cpu, cuda"),
        ("precision=fp8", "precision (fp8) must be one of float32, bfloat16"),
        ("compile=maybe", 'compile ("maybe") must be true or false'),
        ("ppo.gpus_per_env_runner=2", "ppo.gpus_per_env_runner (2.0) must be between 0 and 1"),
    ],
)
def test_wrong_settings_are_one_line(text, message):
    with pytest.raises(ConfigError) as error:
        load_settings(overrides=[text])
    assert str(error.value) == message


def test_a_run_on_the_cpu_has_no_gpus_to_share():
    with pytest.raises(ConfigError, match=r"^ppo.gpus_per_env_runner \(0.25\) must be 0 with device=cpu$"):
        load_settings(overrides=["device=cpu", "ppo.gpus_per_env_runner=0.25"])


def test_settings_of_before_get_the_defaults(tmp_path):
    run = load_settings(overrides=["ppo.lr=2e-4"], seed=4)
    old = to_dict(run)
    for key in ("device", "precision", "compile"):
        del old[key]
    del old["ppo"]["gpus_per_env_runner"]
    assert completed(old, "here") == to_dict(run)
    write_yaml(run, tmp_path / "config.yaml")
    kept = [line for line in (tmp_path / "config.yaml").read_text().splitlines() if "gpus" not in line]
    kept = [line for line in kept if line.split(":")[0] not in ("device", "precision", "compile")]
    (tmp_path / "config.yaml").write_text("\n".join(kept))
    assert read_yaml(tmp_path / "config.yaml") == run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(
        UserError, match=r"^device \(cuda\): torch .* finds no GPU here; use device=auto or device=cpu$"
    ):
        compute_of(load_settings(overrides=["device=cuda"]))
    assert chosen("auto") == chosen("cpu") == for_answers(load_settings(overrides=["device=cuda"])) == CPU


def test_compiling_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        UserError, match=r"^compile \(true\) needs a C\+\+ compiler; install g\+\+ or use compile=false$"
    ):
        compute_of(load_settings(overrides=["compile=true"]), CPU)


@pytest.fixture
def cards(monkeypatch, tmp_path):
    """Lets nvidia-smi tell of cards; without any there is no such program."""

    def tell(*lines):
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}" if lines else str(tmp_path))
        if lines:
            program = tmp_path / "nvidia-smi"
            program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
            program.chmod(0o755)

    return tell


H100, T4 = "NVIDIA H100 80GB HBM3, 81559, 9.0", "Tesla T4, 15360, 7.5"
ONE_EACH = ["pretrain.num_workers=1", "ppo.num_learners=1"]


@pytest.mark.parametrize(
    ("lines", "overrides", "message"),
    [
        ([], ONE_EACH, "device (cuda): no NVIDIA GPU answers here (see nvidia-smi); use device=auto or device=cpu"),
        (
            [H100],
            [],
            "pretrain.num_workers (2) is too many for device=cuda: each takes one of the 1 GPUs here; "
            "lower it, or use device=cpu",
        ),
        (
            [H100, H100],
            ["ppo.num_env_runners=2", "ppo.gpus_per_env_runner=0.25"],
            "ppo.num_learners (2) is too many for device=cuda: each takes one of the 2 GPUs here, env runners 0.5; "
            "lower it, or use device=cpu",
        ),
        (
            [H100, T4],
            ["precision=bfloat16"],
            "precision (bfloat16): Tesla T4 does not calculate in bfloat16; use precision=float32",
        ),
        ([H100], ONE_EACH, None),
        ([H100, H100], ["precision=bfloat16"], None),
    ],
)
def test_gpus_are_counted_before_ray_waits_for_them(cards, lines, overrides, message):
    cards(*lines)
    assert len(machine.gpus()) == len(lines)
    run = load_settings(overrides=["device=cuda", *overrides])
    preflight.check_device(run, "auto", ("pretrain", "ppo"))  # a cluster has what it has
    preflight.check_device(replace(run, device="auto"), "local", ("pretrain", "ppo"))
    if message is None:
        return preflight.check_device(run, "local", ("pretrain", "ppo", "eval"))
    with pytest.raises(UserError) as error:
        preflight.check_device(run, "local", ("pretrain", "ppo", "eval"))
    assert str(error.value) == message


def test_only_the_stages_that_run_need_gpus(cards):
    cards(H100)
    run = load_settings(overrides=["device=cuda", "ppo.num_learners=1"])
    preflight.check_device(run, "local", ("ppo", "eval"))


@pytest.mark.parametrize(
    ("device", "processes", "there", "takes", "said"),
    [
        ("cpu", 1, 8, False, ""),
        ("cuda", 2, 0, True, ""),
        ("auto", 2, 0, False, ""),
        ("auto", 2, 2, True, ""),
        ("auto", 2, 1, False, "device (auto): 1 GPUs for x.num (2): on the CPU; set x.num=1\n"),
    ],
)
def test_who_takes_gpus(capsys, device, processes, there, takes, said):
    assert takes_gpus(device, "x.num", processes, there) is takes
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_learns_from_almost_the_same_loss(make, kind):
    loaded = make(kind, precision="bfloat16")
    compute, batch = compute_of(loaded.run, CPU), random_play(loaded).batch(0, 3)
    with compute.learning():
        loss, _ = pretrain_loss(loaded.model, batch)
    full, _ = pretrain_loss(loaded.model, batch)
    assert loss.dtype == torch.float32 and not torch.equal(loss, full)
    torch.testing.assert_close(loss, full, rtol=0.02, atol=0)
    loss.backward()
    assert all(p.dtype == torch.float32 == p.grad.dtype for p in loaded.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["default", "everything"])
def test_in_bfloat16_the_ratio_is_one_at_the_first_minibatch(make, kind):
    """Sampled in float32: without asking again, the ratio would begin elsewhere."""
    precise, trainer = PPOTrainer(make(kind)), PPOTrainer(make(kind, precision="bfloat16"))
    sampled, columns = precise.sample()[0], trainer.sample()[0]
    assert all(torch.equal(sampled[k], columns[k]) for k in sampled.keys() - {ACTION_LOGP, DREAM_LOGP})
    for name in (ACTION_LOGP, DREAM_LOGP):
        torch.testing.assert_close(sampled[name], columns[name], rtol=0.1, atol=0.3)
    first, stale = next(trainer.minibatches(columns)), next(trainer.minibatches(sampled))
    now = trainer.score(first).dreams
    assert now is not None
    begins = [now.logp.detach() - batch[DREAM_LOGP][active(first)] for batch in (first, stale)]
    assert float(begins[0].abs().max()) == 0 and float(begins[1].abs().max()) > 1e-4
    assert trainer.learn(first, 0)["max_ratio_error"] == 0  # to the bit


def active(batch):
    """Question and dream of every dream step, in the order in which they are scored."""
    question, dream = ((batch[OBS]["phase"] == 0).unsqueeze(1) & (batch[OBS]["active"] == 1)).nonzero(as_tuple=True)
    order = batch[OBS]["grid"].prod(1)[question].argsort(stable=True)
    return question[order], dream[order]


def test_every_row_is_asked_again_before_anything_is_learned(make):
    trainer = PPOTrainer(make(precision="bfloat16"))
    columns = trainer.sample()[0]
    for batch in trainer.minibatches(columns):  # all epochs: no row is forgotten, whatever minibatch it is in
        scored = trainer.score(batch)
        dreams, answers = scored.dreams, scored.answers
        assert dreams is not None
        torch.testing.assert_close(dreams.logp, batch[DREAM_LOGP][dreams.question, dreams.dream], rtol=0, atol=0.02)
        if answers is not None:
            torch.testing.assert_close(answers.logp, batch[ACTION_LOGP][answers.question], rtol=0, atol=0.1)
    resting = columns[f"{OBS}/active"] == 0
    assert bool((columns[DREAM_LOGP][resting] == 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_no_forward_pass_makes_tensors_on_the_default_device(make, kind):
    """With ``meta`` as the default device, a tensor that was made without a device cannot meet the model's."""
    loaded = make(kind)
    trainer, model = PPOTrainer(loaded), loaded.model
    batch, codec = random_play(loaded).batch(0, 3), random_play(loaded).patches(2)
    columns = trainer.sample()[0]
    first = next(trainer.minibatches(columns))
    replay = trainer.replay.batch(0, 2, key=4)
    count, dreams, _, patches = first[OBS]["frames"].shape
    dice = torch.rand(count, dreams, patches + 2, generator=torch.Generator().manual_seed(0))
    answer_dice = torch.rand(count, model.config.max_answer_tokens + 1, generator=torch.Generator().manual_seed(0))
    with torch.device("meta"):
        losses = [pretrain_loss(model, batch)[0], codec_loss(model, codec)]
        scored = trainer.score(first)
        losses.append(ppo_loss(loaded.run, model, first, scored, replay)[0])
        acted = policy.act(model, first[OBS], dice, answer_dice)
        prompt = model.ask(first[OBS])
        frames, actions, beliefs, lengths, grid = (
            first[OBS][k].long() for k in ("frames", "actions", "beliefs", "lengths", "grid")
        )
        reading = model.read(frames, actions, beliefs, lengths, prompt, grid)
        answered = model.answer(reading, prompt, answer_dice, temperature=0.5, top_p=0.9)
        drawn = model.draw(reading, prompt, answered.focus, frames, lengths, grid)
        sure = model.confidence(model.evidence(reading, answered))
    made = [*losses, drawn, sure, *acted["actions"].values(), acted[DREAM_LOGP], reading.edges.weight, *answered]
    assert {tensor.device for tensor in made} == {CPU}


def test_as_floats_keeps_names_and_numbers():
    values = {"a": torch.tensor(0.1), "b": torch.tensor(3), "c": torch.tensor(2.0, requires_grad=True)}
    assert as_floats(values) == {"a": float(torch.tensor(0.1)), "b": 3.0, "c": 2.0}
    assert as_floats({}) == {}


def test_single_numbers_stay_where_the_cpu_reads_them():
    compute = Compute(device=torch.device("meta"))
    put = compute.put({"x": torch.ones(2), "deep": {"y": torch.ones(1, 3)}, "seed": torch.tensor(5)})
    assert (put["x"].device.type, put["deep"]["y"].device.type, int(put["seed"])) == ("meta", "meta", 5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's compiler looks at it
@pytest.mark.slow
def test_compiled_blocks_compute_the_same_under_the_same_names():
    """Traced, and run without generating code: that takes a compiler minutes."""
    own = [Block(8, 2) for _ in range(3)]
    blocks = torch.nn.ModuleList(own)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([True, True, False, True, False]).view(1, 1, 1, 5)
    names, plain = list(blocks.state_dict()), [[block(x, mask=how) for block in blocks] for how in (None, mask)]
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_blocks(torch.nn.Sequential(torch.nn.Linear(2, 2), blocks), backend=backend)
    traced = [[block(x, mask=how) for block in blocks] for how in (None, mask)]
    torch.testing.assert_close(traced, plain)
    traced[1][0].sum().backward()
    assert own[0].attention.query.weight.grad is not None
    assert list(blocks.state_dict()) == names
    assert len(graphs) == 2, "equal blocks share their graphs, one for each way to call them, and none falls apart"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_computes_what_the_cpu_does(make, kind):
    loaded = make(kind, device="cuda")
    batch = random_play(loaded).batch(0, 3)
    with torch.no_grad():
        expected, _ = pretrain_loss(loaded.model, batch)
    compute = compute_of(loaded.run)
    compute.prepare(loaded.model)
    loss, metrics = pretrain_loss(loaded.model, compute.put(batch))
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-3, atol=1e-3, check_device=False)
    assert {tensor.device.type for tensor in metrics.values()} == {"cuda"}
    loss.backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ppo_on_a_gpu_begins_at_ratio_one(make, precision):
    loaded = make(device="cuda", precision=precision)
    loaded.model.to(chosen("cuda"))
    trainer = PPOTrainer(loaded)
    before = {name: tensor.clone() for name, tensor in weights(loaded.model).items()}
    first = next(trainer.minibatches(trainer.sample()[0]))
    assert trainer.learn(first, 0)["max_ratio_error"] < 1e-4  # sums over a graph's edges have no fixed order there
    assert any(not torch.equal(before[name], now) for name, now in weights(loaded.model).items())
    assert all(torch.isfinite(tensor).all() for tensor in weights(loaded.model).values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_evaluation_on_a_gpu(make):
    from dreamrl.evaluate import evaluate, held_out

    loaded = make(device="cuda")
    questions = held_out(loaded.world, (3,), 4, 0)
    here = evaluate(loaded, questions, [2], 0)[2]
    loaded.model.to(chosen("cuda"))
    there = evaluate(loaded, questions, [2], 0)[2]
    assert [v.exact for v in there.verdicts] == [v.exact for v in here.verdicts]
    assert there.confidence == pytest.approx(here.confidence, abs=1e-3)


def test_the_driver_does_not_need_torch_to_count_gpus():
    code = "import sys; import dreamrl.preflight; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
