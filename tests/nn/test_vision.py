"""Vision backbones: the models of transformers on the same weights, their pyramid, and what may be loaded."""

import json
import logging
import socket
import subprocess
import sys

import pytest
import torch

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.errors import UserError
from dreamrl.nn.vision import ChannelScale, StagePyramid, TokenPyramid, VisionBackbone, average, places

KINDS = ("lite", "vit", "resnet", "clip")
PRETRAINED = ("vit", "resnet", "clip", "whole clip")


def config(kind, **changes):
    return DreamingConfig(embedding_dim=16, num_heads=2, vision_backbone=kind.split()[-1], **changes)


def backbone(kind, seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VisionBackbone(config(kind, **changes))


def pictures(height, width, count=2, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def hub():
    """Makes models of transformers whose every weight and statistic is far from its initial value."""
    transformers = pytest.importorskip("transformers")

    def make(kind):
        tokens = {"hidden_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 20}
        tokens |= {"image_size": 32, "patch_size": 8}
        text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        text |= {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2}
        sizes = {"embedding_size": 6, "hidden_sizes": [6, 8, 10, 12], "depths": [1, 2, 1, 1], "layer_type": "basic"}
        if kind == "vit":
            model = transformers.ViTModel(transformers.ViTConfig(**tokens, attention_probs_dropout_prob=0.5))
        elif kind == "resnet":
            model = transformers.ResNetModel(transformers.ResNetConfig(**sizes))
        elif kind == "clip":
            model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**tokens, attention_dropout=0.5))
        else:
            model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=tokens))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, value in [*model.named_parameters(), *model.named_buffers()]:
                if name.endswith("running_var"):
                    value.uniform_(0.5, 2, generator=generator)
                elif value.is_floating_point():
                    value += 0.2 * torch.randn(value.shape, generator=generator)
        return model.eval()

    return make


@pytest.fixture
def saved(hub, tmp_path):
    """Makes a directory of pretrained weights, and the model that it holds."""
    from dreamrl.nn.vision_models import quiet

    def make(kind):
        model, directory = hub(kind), tmp_path / kind.replace(" ", "-")
        with quiet():
            model.save_pretrained(directory)
        return directory, model.vision_model if kind == "whole clip" else model

    return make


@pytest.mark.parametrize("kind", PRETRAINED)
def test_pretrained_weights_give_what_transformers_gives(kind, saved):
    directory, model = saved(kind)
    own = backbone(kind, vision_weights=str(directory)).train()  # training must switch nothing on
    pixels = pictures(32, 32)
    with torch.no_grad():
        if kind == "resnet":
            expected = model(pixels, output_hidden_states=True).hidden_states[-3:]
            found = own.body(pixels)
        else:
            out = model(pixels, output_hidden_states=True)
            expected = [out.hidden_states[2][:, 1:], out.hidden_states[3][:, 1:], out.last_hidden_state[:, 1:]]
            found = own.body.hidden(pixels)
    for level, right in zip(found, expected, strict=True):
        assert right.std() > 0.1
        torch.testing.assert_close(level, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ("vit", "clip"))
@pytest.mark.parametrize("size", [(16, 32), (48, 48), (8, 8)])
def test_position_encodings_follow_the_picture(kind, size, saved):
    directory, model = saved(kind)
    own = backbone(kind, vision_weights=str(directory))
    with torch.no_grad():
        right = model(pictures(*size), interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        torch.testing.assert_close(own.body.hidden(pictures(*size))[-1], right)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_normalised_as_the_backbone_was_trained(kind):
    own = backbone(kind)
    mean, std = {
        "resnet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    }.get(kind, ([0.5] * 3, [0.5] * 3))
    pixels = pictures(32, 48)
    with torch.no_grad():
        maps = own.body(torch.stack([(pixels[:, c] - mean[c]) / std[c] for c in range(3)], dim=1))
        for i, (level, found) in enumerate(zip(maps, own(pixels), strict=True)):
            tokens = own.project[i](level.flatten(2).transpose(1, 2))
            torch.testing.assert_close(found, tokens + places(*level.shape[2:], 2**i, tokens), rtol=1e-4, atol=1e-5)


def test_colours_come_from_the_preprocessor_if_it_says_them(saved):
    directory, _ = saved("vit")
    (directory / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    own = backbone("vit", vision_weights=str(directory))
    assert own.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert own.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(48, 48), (96, 64), (50, 37), (4, 4), (1, 1)])
def test_three_levels_each_half_as_fine(kind, height, width):
    finest = 8 if kind in ("vit", "clip") else 4
    rows, columns = -(-height // finest), -(-width // finest)
    for stride, level in zip((1, 2, 4), backbone(kind)(pictures(height, width)), strict=True):
        assert level.shape == (2, -(-rows // stride) * -(-columns // stride), 16)
        assert level.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_reads_the_same_in_any_company(kind):
    own, pixels = backbone(kind).train(), pictures(48, 32, count=5)
    for together, alone in zip(own(pixels), own(pixels[3:4]), strict=True):
        torch.testing.assert_close(together[3:4], alone, rtol=1e-4, atol=1e-5)
    assert not list(own.buffers()) == [] and not any(b.requires_grad for b in own.buffers())
    assert all(a.equal(b) for a, b in zip(own(pixels), own.eval()(pixels), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_used_and_every_state_is_a_weight(kind):
    own = backbone(kind)
    sum((level * torch.randn_like(level)).sum() for level in own(pictures(32, 48))).backward()
    assert [name for name, p in own.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert set(own.state_dict()) == {name for name, _ in own.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_say_where_things_are(kind):
    """A white square that moves changes every level, and on a blank picture no two tokens are equal."""
    own = backbone(kind)
    pixels = torch.zeros(2, 3, 64, 64)
    pixels[0, :, 8:16, 8:16] = 1
    pixels[1, :, 8:16, 40:48] = 1
    with torch.no_grad():
        for level in own(pixels):
            assert not torch.allclose(level[0], level[1], atol=1e-3)
        blank = own(torch.zeros(1, 3, 64, 64))
    for level in blank:
        apart = torch.cdist(level[0], level[0]) + 9 * torch.eye(level.shape[1])
        assert apart.min() > 0.01


def test_pooling_is_the_mean_of_what_is_there():
    x = pictures(5, 7)
    for stride in (1, 2, 4):
        rows = [x[:, :, r : r + stride] for r in range(0, 5, stride)]
        slow = [[block[..., c : c + stride].mean((2, 3)) for c in range(0, 7, stride)] for block in rows]
        slow = torch.stack([torch.stack(row, dim=-1) for row in slow], dim=-2)
        torch.testing.assert_close(average(x, stride), slow)


def test_places_of_levels_agree():
    """A coarse cell's place is that of the middle of the fine cells that it covers: nearest to the 4 in the centre."""
    like = torch.zeros(1, 32)
    fine, coarse = places(8, 8, 1, like), places(2, 2, 4, like)
    for cell, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        distance = (fine - coarse[cell]).square().sum(1).view(8, 8)
        nearest = distance.flatten().argsort()[:4]
        centre = {(row + r) * 8 + column + c for r in (1, 2) for c in (1, 2)}
        assert set(nearest.tolist()) == centre


def test_a_frozen_batch_norm_is_the_batch_norm_in_evaluation():
    norm = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.copy_(torch.rand(3) + 0.1)
    x = pictures(4, 5)
    torch.testing.assert_close(ChannelScale(norm)(x), norm.eval()(x))


def test_kinds_are_what_they_say():
    assert isinstance(backbone("vit").body, TokenPyramid) and isinstance(backbone("clip").body, TokenPyramid)
    assert isinstance(backbone("resnet").body, StagePyramid)
    assert type(backbone("vit").body.model).__name__ == "ViTModel"
    assert type(backbone("clip").body.model).__name__ == "CLIPVisionModel"
    assert type(backbone("resnet").body.model).__name__ == "ResNetModel"


@pytest.mark.parametrize("kind", PRETRAINED)
def test_a_saved_architecture_needs_no_weights_directory(kind, saved):
    directory, _ = saved(kind)
    (directory / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    first = backbone(kind, vision_weights=str(directory))
    gone = config(kind, vision_weights="/no/such/place")
    second = VisionBackbone(gone, json.loads(json.dumps(first.architecture)))
    assert second.architecture == first.architecture
    with torch.no_grad():
        for (name, to), (_, weight) in zip(second.named_parameters(), first.named_parameters(), strict=True):
            assert name in dict(first.named_parameters())
            to.copy_(weight)
    pixels = pictures(32, 40)
    assert all(a.equal(b) for a, b in zip(first(pixels), second(pixels), strict=True))


def test_only_declared_fields_of_a_config_count(saved):
    directory, _ = saved("vit")
    raw = json.loads((directory / "config.json").read_text())
    raw |= {"quantization_config": {"quant_method": "gptq"}, "_attn_implementation": "someone/kernels"}
    (directory / "config.json").write_text(json.dumps(raw | {"auto_map": {"AutoModel": "evil.py"}}))
    own = backbone("vit", vision_weights=str(directory))
    assert own.body.model.config._attn_implementation == "sdpa"
    assert not {"quantization_config", "auto_map", "_attn_implementation"} & set(own.architecture["fields"])


def corrupt(directory, file, content):
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_bytes(content)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", None, "config.json cannot be read"),
        ("config.json", b"{", "config.json cannot be read"),
        ("config.json", b"[1]", "holds no JSON object"),
        ("config.json", b'{"model_type": "resnet"}', 'holds a "resnet", but model.vision_backbone is vit'),
        ("config.json", b'{"model_type": "vit", "hidden_size": "x"}', "hidden_size"),
        ("config.json", b'{"model_type": "vit", "num_channels": 1}', "num_channels (1) must be 3"),
        ("config.json", b'{"model_type": "vit", "patch_size": [8, 4]}', "must be one number"),
        ("config.json", b'{"model_type": "vit", "num_hidden_layers": 99}', "is no vit that can be used"),
        ("model.safetensors", None, "is no vit that can be used"),
        ("model.safetensors", b"nothing", "is no vit that can be used"),
        ("preprocessor_config.json", b'{"image_mean": 3}', "image_mean"),
        ("preprocessor_config.json", b'{"image_std": [0.5, 0.5]}', "image_std"),
    ],
)
def test_wrong_directories_are_refused_in_one_line(file, content, words, saved):
    directory, _ = saved("vit")
    if content is not None and b'"vit"' in content:
        raw = json.loads((directory / "config.json").read_text())
        content = json.dumps(raw | json.loads(content)).encode()
    corrupt(directory, file, content)
    with pytest.raises(UserError) as error:
        backbone("vit", vision_weights=str(directory))
    assert words in str(error.value) and str(directory) in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused(saved):
    directory, model = saved("vit")
    (directory / "model.safetensors").unlink()
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        backbone("vit", vision_weights=str(directory))


def test_a_missing_directory_is_refused():
    with pytest.raises(UserError, match="is not a directory; give a local one with config.json"):
        backbone("vit", vision_weights="google/vit-base-patch16-224")


def test_too_few_stages_are_refused():
    architecture = backbone("resnet").architecture
    architecture = architecture | {"fields": {**architecture["fields"], "hidden_sizes": [8, 8], "depths": [1, 1]}}
    with pytest.raises(UserError, match="at least 3 stages"):
        VisionBackbone(config("resnet"), architecture)


@pytest.mark.parametrize("kind", PRETRAINED)
def test_loading_is_silent_and_offline(kind, saved, monkeypatch, capfd):
    directory, _ = saved(kind)
    capfd.readouterr()

    def refuse(*_):
        raise AssertionError("loading opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    logger = logging.getLogger("transformers")
    before = logger.level
    backbone(kind, vision_weights=str(directory))
    assert capfd.readouterr() == ("", "")
    assert logger.level == before


def test_transformers_is_imported_by_its_own_backbones_only():
    code = """if 1:
        import sys
        from dreamrl.dreaming_config import DreamingConfig
        from dreamrl.nn.input_tokenizer import InputTokenizer
        InputTokenizer(DreamingConfig(vision_backbone="lite"), 300)
        assert "transformers" not in sys.modules
        sys.modules["transformers"] = None  # as if it were not installed
        try:
            InputTokenizer(DreamingConfig(vision_backbone="vit"), 300)
        except ValueError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "model.vision_backbone (vit) needs the package transformers; install it\n"
