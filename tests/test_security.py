"""Nothing that is read from a file runs code, takes the machine down or reaches out of its directory.

What each format's own tests hold is not repeated: secrets in uploads are in tests/test_submit.py, damage and pickles
under every name in tests/test_checkpoint.py and tests/test_saving.py, pictures in Python in tests/test_pictures.py.
"""

import ast
import hashlib
import json
import logging
import pickle
import shutil
import struct
import sys
import types
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from dreamrl.checkpoint import CONFIG, TOKENIZER, WEIGHTS, newest_checkpoint, save_checkpoint
from dreamrl.cli import main
from dreamrl.errors import UserError
from dreamrl.manifest import FORMAT_VERSION, MANIFEST, read_manifest
from dreamrl.saving import load_pretrained, save_pretrained

ROOT = Path(__file__).parent.parent
SOURCES = sorted(str(p.relative_to(ROOT)) for top in ("dreamrl", "envs") for p in (ROOT / top).rglob("*.py"))
MODULES = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "runpy", "code", "tarfile", "zipfile")
"""Modules that run what they read, or unpack files wherever these say."""
CALLS = (
    "eval", "exec", "compile", "__import__", "importlib.import_module", "os.system", "os.popen", "torch.load",
    "torch.save", "torch.jit.load", "torch.hub.load", "torch.package", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.unsafe_load", "pandas.read_pickle", "numpy.fromfile", "shutil.unpack_archive", "PIL.Image.open",
    "transformers.AutoModel", "transformers.AutoConfig",
)  # fmt: skip
"""Calls that can run what they read, start a shell, or open formats that do (``Image.open`` unless it names some)."""
SWITCHES = ("shell", "allow_pickle", "trust_remote_code")
ALLOWED = {
    ("dreamrl/__init__.py", "importlib.import_module"): "its own modules, from a table",
    ("dreamrl/bench/run.py", "importlib.import_module"): "its own modules; the name is one of a list",
    ("dreamrl/dream_record.py", "zipfile"): "how large an archive of arrays is, before NumPy reads it without pickle",
    ("envs/registry.py", "importlib.import_module"): "worlds: of a table, or the user's own if it is trusted",
    ("envs/worlds/easy_vqa.py", "PIL.Image.open"): "files of an installed package",
}


def risky(source):
    """What of ``MODULES`` and ``CALLS`` the source uses, whatever it calls them, and switches that undo a guard."""
    tree, names, found, guarded = ast.parse(source), {}, set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition(".")[0]
                names |= {alias.asname: alias.name} if alias.asname else {package: package}
                found |= {alias.name} if package in MODULES else set()
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {str(node.module)} if str(node.module).partition(".")[0] in MODULES else set()
        elif isinstance(node, ast.Call):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            found |= {switch for switch in SWITCHES if given.get(switch, "False") != "False"}
            if "formats" in given:
                guarded.append(node.func)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in guarded:
            root, dot, rest = dotted(node).partition(".")
            name = f"{names.get(root, root)}{dot}{rest}"
            found |= {call for call in CALLS if name == call or name.startswith(f"{call}.")}
    return found


def dotted(node):
    """``a.b.c`` as it is written; what is no name, such as a call, is left empty."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_no_load_path_runs_what_it_reads():
    used = {(path, call) for path in SOURCES for call in risky((ROOT / path).read_text(encoding="utf-8"))}
    assert used == set(ALLOWED), sorted(used ^ set(ALLOWED))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch as t\nt.load(x)", {"torch.load"}),
        ("from yaml import load as safe\nsafe(x)", {"yaml.load"}),
        ("def f():\n    import pickle.x", {"pickle.x"}),
        ("f = eval", {"eval"}),
        ("subprocess.run(x, shell=True)", {"shell"}),
        ("from PIL import Image\nImage.open(x)", {"PIL.Image.open"}),
        (
            "from PIL import Image\nImage.open(x, formats=F)\nimport re\nre.compile(x)\nm.eval()\nyaml.safe_load(x)",
            set(),
        ),
    ],
)
def test_the_search_sees_through_other_names(source, found):
    assert risky(source) == found


class Trap:
    """Unpickling it touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def sound(loaded, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sound") / "model"
    save_pretrained(loaded, directory)
    return directory


@pytest.fixture
def model(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture
def sprung(tmp_path, monkeypatch):
    """What exists once code of an attacker has run; a module that is there already holds a function that does so."""
    mark = tmp_path / "sprung"
    springs = types.ModuleType("springs")
    springs.trap = mark.touch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "springs", springs)
    return mark


def put(model, name, content):
    """Put a file in its place in a model, with a digest that fits."""
    (model / name).write_bytes(content)
    field = {WEIGHTS: "weights_sha256", TOKENIZER: "tokenizer_sha256"}[name]
    edit(model / CONFIG, lambda config: config.update({field: hashlib.sha256(content).hexdigest()}))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def weights(model, change):
    """Change the first of the model's weights."""
    state = load_file(model / WEIGHTS)
    name = min(state)
    put(model, WEIGHTS, save(state | {name: change(state[name])}))


def header(model, first, **fields):
    """Weights that are a header alone, which says of the first one whatever it likes."""
    said = json.dumps(
        {min(load_file(model / WEIGHTS)): {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | fields}
    )
    put(model, WEIGHTS, struct.pack("<Q", first or len(said)) + said.encode() + bytes(4))


def tokenizer(model, change):
    content = json.loads((model / TOKENIZER).read_text())
    change(content)
    put(model, TOKENIZER, json.dumps(content).encode())


def settings(*path, value):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return lambda model: edit(model / CONFIG, change)


CATASTROPHE = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
EXPLOSION = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000}
MODELS = {
    "pickle as weights": (lambda m: put(m, WEIGHTS, pickle.dumps(Trap(m.parent / "sprung"))), "not a safetensors file"),
    "pickle as tokenizer": (lambda m: put(m, TOKENIZER, pickle.dumps(Trap(m.parent / "sprung"))), "is not a tokenizer"),
    "pickle as config": (lambda m: (m / CONFIG).write_bytes(pickle.dumps(Trap(m.parent / "sprung"))), "not valid JSON"),
    "a header of 2**63 bytes": (lambda m: header(m, 2**63), "not a safetensors file"),
    "a header of 90 MB": (lambda m: header(m, 90_000_000), "not a safetensors file"),
    "a shape of 2**60 numbers": (lambda m: header(m, 0, shape=[2**30, 2**30]), "not a safetensors file"),
    "a shape that overflows": (lambda m: header(m, 0, shape=[2**40, 2**40]), "not a safetensors file"),
    "numbers beyond the file": (lambda m: header(m, 0, data_offsets=[0, 2**50]), "not a safetensors file"),
    "weights that are no number": (lambda m: weights(m, lambda w: w * torch.nan), "finite real numbers"),
    "infinite weights": (lambda m: weights(m, lambda w: w + torch.inf), "finite real numbers"),
    "complex weights": (lambda m: weights(m, lambda w: w.to(torch.complex64)), "finite real numbers"),
    "deep JSON": (lambda m: (m / CONFIG).write_text("[" * 200_000), "is not valid JSON"),
    "deeper JSON": (lambda m: (m / CONFIG).write_text('{"run":' * 200_000), "is not valid JSON"),
    "a number of 10,000 digits": (lambda m: (m / CONFIG).write_text('{"format_version":' + "9" * 10_000), "not valid"),
    "a huge model": (settings("run", "model", "embedding_dim", value=2**40), "must be between"),
    "a huge code book": (settings("run", "model", "code_levels", value=[64] * 9), "product <="),
    "endless sizes": (settings("run", "world", "worlds", value=["frozen_lake@3-99999999999"]), "sizes above"),
    "huge sizes": (settings("run", "world", "sizes", value=[10**9]), "world.sizes"),
    "os.system as a world": (settings("run", "world", "name", value="os:system"), "is code"),
    "code in a mixture": (settings("run", "world", "worlds", value=["frozen_lake", "springs:trap"]), "is code"),
    "code that is loaded": (settings("run", "world", "name", value="springs:trap"), "is code"),
    "a path as a world": (settings("run", "world", "name", value="../../springs"), "unknown world"),
    "deep JSON as tokenizer": (lambda m: put(m, TOKENIZER, b"[" * 100_000), "is not a tokenizer"),
    "a pattern that takes forever": (
        lambda m: tokenizer(m, lambda t: t.update(pre_tokenizer=CATASTROPHE)),
        "dreamrl's",
    ),
    "a rule that makes long text": (lambda m: tokenizer(m, lambda t: t.update(normalizer=EXPLOSION)), "dreamrl's"),
    "a token beyond the table": (lambda m: tokenizer(m, lambda t: t["model"]["vocab"].update(a=2**31)), "numbered"),
    "a device as weights": (lambda m: relink(m / WEIGHTS, "/dev/zero"), "is missing"),
    "a secret as config": (lambda m: relink(m / CONFIG, m.parent / "secret"), "is not valid JSON"),
}
"""What is done to a model, and what is said of it."""


def relink(path, target):
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("attack", MODELS)
def test_a_hostile_model_is_refused_in_one_line(model, sprung, refused, attack):
    spoil, said = MODELS[attack]
    (model.parent / "secret").write_text("hunter2 is the password")
    spoil(model)
    message = refused("generate", str(model), "Find the shortest safe path to the gift.", "--world", "frozen_lake")
    assert said in message and "hunter2" not in message and len(message) < 1000
    assert not sprung.exists()


def test_the_traps_work_and_the_sound_model_passes(sound, sprung):
    """Else all that is refused would prove nothing."""
    sys.modules["springs"].trap()
    assert sprung.exists()
    sprung.unlink()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()
    load_pretrained(sound)


LAUGHS = "a: &a [1, 1]\n" + "".join(
    f"{c}: &{c} [*{p}, *{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{c}: &{c} {{<<: [*{p}, *{p}]}}\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)
CONFIGS = {
    "a call": ("seed: !!python/object/apply:os.system ['touch sprung']\n", "not valid YAML"),
    "an object": ("world: !!python/object:springs.trap {}\n", "not valid YAML"),
    "a module": ("seed: !!python/module:springs\n", "not valid YAML"),
    "billion laughs": (LAUGHS + "seed: *i\n", "alias"),
    "billion merges": (MERGES + "seed: *i\n", "alias"),
    "a loop": ("seed: &s [*s]\n", "alias"),
    "deep nesting": ("seed: " + "[" * 1_500, "not valid YAML"),
    "a number of 10,000 digits": ("seed: " + "9" * 10_000, "not valid YAML"),
    "a number of 10,000 hexadecimal digits": ("seed: 0x" + "f" * 10_000, "must be a whole number"),
    "a path as a preset": ("preset: ../../../etc/passwd\n", "unknown preset"),
    "bytes": ("seed: !!binary aGVsbG8=\n", "must be a whole number"),
}
"""Text of a file of settings, and what is said of it."""


@pytest.mark.parametrize("attack", CONFIGS)
def test_hostile_settings_are_refused_in_one_line(fake_work, tmp_path, sprung, refused, attack):
    text, said = CONFIGS[attack]
    (tmp_path / "bad.yaml").write_text(text)
    message = refused("train", "--config", "bad.yaml", "--out", "run")
    assert said in message and len(message) < 1000
    assert fake_work.calls == [] and not sprung.exists()


@pytest.mark.parametrize("attack", ["a call", "billion laughs", "billion merges", "deep nesting"])
def test_a_hostile_search_is_refused_in_one_line(tmp_path, sprung, refused, attack):
    (tmp_path / "bad.yaml").write_text(CONFIGS[attack][0])
    assert CONFIGS[attack][1] in refused("tune", str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "run"))
    assert not sprung.exists()


@pytest.mark.parametrize("options", ["[" * 100_000, '{"desc": ' + "9" * 10_000 + "}", '{"desc": ' * 50_000])
def test_a_hostile_scene_is_refused_in_one_line(model, tmp_path, refused, options):
    message = refused("generate", str(model), "Where?", "--world", "frozen_lake", "--options", options)
    assert "not valid JSON" in message
    (tmp_path / "items.jsonl").write_text(options + "\n")
    message = refused("eval", str(model), "--world", "frozen_lake", "--items", str(tmp_path / "items.jsonl"))
    assert "line 1: not valid JSON" in message


def png(width, height):
    """A small file that says that it is a picture of any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(sprung) (w) file closefile showpage\n%%EOF\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bomb.png", png(10_000, 10_000), "million"),
        ("bomb.png", png(2**31 - 1, 2**31 - 1), "has too many pixels"),
        ("program.eps", POSTSCRIPT, "known format"),
        ("program.png", POSTSCRIPT, "known format"),
    ],
    ids=["a bomb", "a larger bomb", "a program", "a program by another name"],
)
def test_a_hostile_picture_is_refused_in_one_line(model, tmp_path, refused, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refused("generate", str(model), "What is this?", "--image", str(tmp_path / name))


def test_names_in_a_manifest_stay_in_its_directory(tmp_path):
    def manifest(files, num=8, shard_size=8):
        said = {"format_version": FORMAT_VERSION, "settings": {}, "num": num, "shard_size": shard_size, "files": files}
        (tmp_path / MANIFEST).write_text(json.dumps(said))

    entry = {"records": 8, "bytes": 1, "sha256": "0" * 64}
    manifest({"shard-00000.parquet": entry})
    assert set(read_manifest(tmp_path).files) == {"shard-00000.parquet"}
    for name in ("../shard-00000.parquet", "/etc/passwd", "shard-00000.parquet/../../x", "shard-00001.parquet"):
        manifest({name: entry})
        with pytest.raises(UserError):
            read_manifest(tmp_path)
    manifest({}, num=10**15, shard_size=1)  # whose names alone would fill the memory
    with pytest.raises(UserError):
        read_manifest(tmp_path)


def tensors(value):
    return {"w": torch.full((3,), float(value))}


@pytest.mark.parametrize("attack", ["not a number", "a linked file", "a linked directory"])
def test_a_hostile_checkpoint_is_passed_over_loudly(tmp_path, caplog, attack):
    root, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    save_checkpoint(root, "ppo-00000001", tensors(1), {"step": 1})
    save_checkpoint(elsewhere, "ppo-00000002", tensors(2), {"step": 2})
    place = root / "ppo-00000002"
    if attack == "not a number":
        save_checkpoint(root, "ppo-00000002", tensors("nan"), {"step": 2})
    elif attack == "a linked file":
        shutil.copytree(elsewhere / place.name, place)
        relink(place / "tensors.safetensors", elsewhere / place.name / "tensors.safetensors")
    else:
        place.symlink_to(elsewhere / place.name)
    with caplog.at_level(logging.WARNING, logger="dreamrl.checkpoint"):
        found = newest_checkpoint(root, "ppo")
    assert found is not None and found[2] == {"step": 1}
    assert place.name in caplog.text and ("link" in caplog.text or "finite" in caplog.text)


def test_what_a_link_among_checkpoints_leads_to_is_never_deleted(tmp_path):
    root, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dear").write_text("x")
    root.mkdir()
    for name in ("ppo-00000001", ".ppo-00000009.partial-0", ".ppo-00000008.old", "ppo-00000008"):
        (root / name).symlink_to(elsewhere)
    newest_checkpoint(root, "ppo")
    for step in (2, 8, 9):
        save_checkpoint(root, f"ppo-{step:08d}", tensors(step), {"step": step}, keep=1)
    assert (elsewhere / "dear").read_text() == "x"
    found = newest_checkpoint(root, "ppo")
    assert found is not None and found[2] == {"step": 9}
    assert not (root / "ppo-00000001").exists()


@pytest.mark.parametrize("name", ["../ppo-00000001", "ppo-1", "ppo-00000001/x", "/ppo-00000001", "ppo-00000001\n"])
def test_the_name_of_a_checkpoint_stays_in_its_directory(tmp_path, name):
    with pytest.raises(AssertionError, match="must be"):
        save_checkpoint(tmp_path / "checkpoints", name, tensors(1), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [("train", "--preset", "../../etc/passwd"), ("tune", "../tune_configs/../x")])
def test_a_name_of_what_comes_along_is_no_path(fake_work, refused, argv):
    refused(*argv, "--out", "run")
    assert main(["train", "--preset", "nano", "--out", "run"]) == 0 and len(fake_work.calls) == 1
