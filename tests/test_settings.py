"""Settings: what wins over what, and one line with the fix for everything that can be wrong."""

import dataclasses
import subprocess
import sys

import pytest
import yaml

from dreamrl.config import ConfigError, DreamingConfig, RunConfig
from dreamrl.dreaming_config import OBJECTIVE_FIELDS
from dreamrl.settings import from_dict, load_settings, presets, read_yaml, to_dict, write_yaml


def test_without_anything_the_defaults_hold():
    assert load_settings("nano", None, [], None) == RunConfig()


def test_overrides_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("seed: 3\nppo:\n  lr: 1e-4\nmodel.ppo_clip_epsilon: 0.3\nworld.sizes: [5]\n")
    config = load_settings("nano", file, ["ppo.lr=2e-4"], None)
    assert (config.seed, config.ppo.lr, config.model.ppo_clip_epsilon, config.world.sizes) == (3, 2e-4, 0.3, (5,))
    assert config.ppo.epochs == RunConfig().ppo.epochs
    assert load_settings("nano", file, [], 7).seed == 7


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_under_its_own_name(name):
    assert load_settings(name, None, [], None).preset == name


@pytest.mark.parametrize(
    ("name", "millions"), [("nano", 0.86), ("base", 14.5), pytest.param("large", 107.5, marks=pytest.mark.slow)]
)
def test_presets_are_as_large_as_they_say(name, millions):
    from dreamrl.saving import new_model

    parameters = sum(p.numel() for p in new_model(load_settings(name)).model.parameters())
    assert parameters == pytest.approx(millions * 1e6, rel=0.05)


@pytest.mark.parametrize(
    ("text", "section", "field", "value"),
    [
        ("ppo.lr=1e-3", "ppo", "lr", 1e-3),
        ("ppo.lr=1", "ppo", "lr", 1.0),
        ("ppo.lr = .5", "ppo", "lr", 0.5),
        ("world.sizes=[3,4]", "world", "sizes", (3, 4)),
        ("world.sizes=3,4", "world", "sizes", (3, 4)),
        ("world.sizes=6", "world", "sizes", (6,)),
        ("world.name=on", "world", "name", "on"),
        ("ppo.epochs=3", "ppo", "epochs", 3),
    ],
)
def test_override_values(text, section, field, value):
    found = getattr(getattr(load_settings("nano", None, [text], None), section), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo.learning_rate=1", 'unknown key "ppo.learning_rate" in the command line; did you mean "ppo.lr"?'),
        ("ppo.epoch=1", 'unknown key "ppo.epoch" in the command line; did you mean "ppo.epochs"?'),
        ("pp0.gamma=1", 'unknown key "pp0.gamma" in the command line; did you mean "ppo.gamma"?'),
        ("lr=1", 'unknown key "lr" in the command line; did you mean "pretrain.lr" or "ppo.lr"?'),
        (
            "model.gae_lamda=1",
            'unknown key "model.gae_lamda" in the command line; did you mean "model.ppo_gae_lambda"?',
        ),
        ("ppo.lr=abc", 'ppo.lr ("abc") must be a number'),
        ("ppo.lr=", "ppo.lr (null) must be a number"),
        ("ppo.lr=nan", 'ppo.lr ("nan") must be a number'),
        ("ppo.lr=true", "ppo.lr (true) must be a number"),
        ("ppo.epochs=1.5", "ppo.epochs (1.5) must be a whole number"),
        ("ppo.epochs=true", "ppo.epochs (true) must be a whole number"),
        ("world.sizes=3,x", 'world.sizes ([3, "x"]) must be a list, each item a whole number, like [3, 4]'),
        ("world.sizes=[3", 'world.sizes ("[3") must be a list, each item a whole number, like [3, 4]'),
        ("ppo=3", "ppo is a section; set one of its keys, for example ppo.iterations=..."),
        ("nano", '"nano" is not a setting; write key=value, for example ppo.lr=1e-3'),
        ("preset=big", "a preset is chosen with --preset big, not preset=big"),
        ("model.moe_top_k=8", "model.moe_top_k (8) must be <= model.num_experts (4)"),
        ("model.ppo_clip_epsilon=-1", "model.ppo_clip_epsilon (-1.0) must be between 0.001 and 10"),
    ],
)
def test_wrong_overrides(text, message):
    with pytest.raises(ConfigError) as caught:
        load_settings("nano", None, [text], None)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.expert_types=spatial,visual", "model.expert_types (['spatial', 'visual']) must hold one or more of"),
        ("model.reward_components=", "model.reward_components ([]) must hold one or more of faithfulness, coherence"),
        ("model.positions=sine", "model.positions (sine) must be one of rope, rope+yarn, alibi, learned"),
        ("model.vision_backbone=vgg", "model.vision_backbone (vgg) must be one of none, lite, vit, resnet, clip"),
        ("model.graph_reader=tree", "model.graph_reader (tree) must be one of graph, mean, shuffled"),
        ("model.code_levels=2,8", "model.code_levels ([2, 8]) must hold at least one level, each 3 to 64"),
        ("model.graph_num_heads=6", "model.embedding_dim (64) must be a multiple of 4 * graph_num_heads (24)"),
        ("model.dream_length=20", "model.max_answer_tokens (24) must be >= 41, for dreams of model.dream_length (20)"),
        ("reward.shaping=none", "reward.shaping (none) must be one of potential, naive"),
    ],
)
def test_settings_of_the_model_that_contradict_themselves(text, message):
    with pytest.raises(ConfigError) as caught:
        load_settings("nano", None, [text], None)
    assert str(caught.value).startswith(message)


def test_objective_fields_are_fields_of_the_model():
    fields = {field.name for field in dataclasses.fields(DreamingConfig)}
    assert set(OBJECTIVE_FIELDS) < fields


def test_a_key_like_nothing_known_lists_the_sections():
    with pytest.raises(ConfigError, match=r'unknown key "zzz" .*; the sections are model, world, pretrain'):
        load_settings("nano", None, ["zzz=1"], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo:\n  learning_rate: 1\n", 'unknown key "ppo.learning_rate" in {file}; did you mean "ppo.lr"?'),
        ("ppo: 3\n", "ppo (3) in {file} is a section; set keys like ppo.iterations"),
        ("ppo: [1, 2]\n", "ppo ([1, 2]) in {file} is a section; set keys like ppo.iterations"),
        ("- 1\n", "{file} must hold lines like `seed: 0`, not [1]"),
        ("seed: 1\nppo: [\n", "{file} line 3: not valid YAML: expected the node content, but found '<stream end>'"),
        ("ppo: {lr: 0.1}\nppo.lr: 0.2\n", "ppo.lr is given twice in {file}; drop one of them"),
        ("world:\n  sizes: {a: 1}\n", 'world.sizes ({{"a": 1}}) must be a list, each item a whole number, like [3, 4]'),
        ("world: {name: on}\n", "world.name (true) must be text"),
        ("ppo: {lr: .inf}\n", "ppo.lr (Infinity) must be a number"),
        ("preset: nanu\n", 'unknown preset "nanu"; did you mean "nano"?'),
        ("x: !!python/object/apply:os.system [true]\n", "{file} line 1: not valid YAML: could not determine a"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(None, file, [], None)
    assert str(caught.value).startswith(message.format(file=file))
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none.yaml: No such file or directory"):
        load_settings("nano", tmp_path / "none.yaml", [], None)
    (tmp_path / "latin.yaml").write_bytes(b"preset: n\xe9no\n")
    with pytest.raises(ConfigError, match=r"latin.yaml is not UTF-8 text \(byte 9\)"):
        load_settings("nano", tmp_path / "latin.yaml", [], None)


@pytest.mark.parametrize("text", ["", "# nothing\n", "ppo:\n  # lr: 1e-3\n"])
def test_an_empty_file_or_section_changes_nothing(tmp_path, text):
    file = tmp_path / "my.yaml"
    file.write_text(text)
    assert load_settings("nano", file, [], None) == RunConfig()


def test_contradictions(tmp_path):
    with pytest.raises(ConfigError, match=r"--seed 1 contradicts seed=2; drop one of them"):
        load_settings("nano", None, ["seed=2"], 1)
    file = tmp_path / "my.yaml"
    file.write_text("preset: other\n")
    with pytest.raises(ConfigError, match=r'--preset nano contradicts preset "other" in .*my.yaml; drop one'):
        load_settings("nano", file, [], None)
    with pytest.raises(ConfigError, match=r'unknown preset "nanoo"; did you mean "nano"\?'):
        load_settings("nanoo", None, [], None)


def changed(config):
    """``config`` with every number and list different from its default, but still valid."""
    model = dataclasses.replace(config.model, code_levels=(5, 5), moe_top_k=1)
    pretrain = dataclasses.replace(config.pretrain, lr=1e-8, steps=123)
    return dataclasses.replace(config, seed=11, preset="gone", model=model, pretrain=pretrain)


def test_what_is_written_reads_back_the_same(tmp_path):
    config = changed(RunConfig())
    write_yaml(config, tmp_path / "config.yaml")
    assert read_yaml(tmp_path / "config.yaml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert "dreams: [1, 4, 16]" in (tmp_path / "config.yaml").read_text()
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config))), "here") == config


def test_from_dict_names_its_origin():
    with pytest.raises(ConfigError, match=r'unknown key "ppo.lrr" in model/config.json; did you mean "ppo.lr"'):
        from_dict({"ppo": {"lrr": 1}}, "model/config.json")


def test_settings_are_read_without_torch_and_ray():
    code = "import sys, dreamrl.settings as s; s.load_settings(); print({'torch', 'ray', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
