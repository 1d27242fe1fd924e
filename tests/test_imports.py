"""Imports point one way, and nothing that loads files can run code from them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "dreamrl").rglob("*.py"), *(ROOT / "envs").rglob("*.py")])


def imported(path):
    """Every module that the file imports anywhere, late imports included: "ray.tune" for ``from ray import tune``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def reachable(path):
    """``imported`` of the file and of all that it imports from this repository."""
    seen, names, todo = set(), set(), [path]
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        names |= (found := imported(file))
        for name in found:
            base = ROOT.joinpath(*name.split("."))
            todo += [source for source in (base.with_suffix(".py"), base / "__init__.py") if source.is_file()]
    return names


def touches(names, package):
    return sorted(name for name in names if name == package or name.startswith(f"{package}."))


def relative(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


PURE = [*(ROOT / "dreamrl" / "nn").glob("*.py"), ROOT / "dreamrl" / "losses.py", ROOT / "dreamrl" / "rewards.py"]


@pytest.mark.parametrize("path", relative(PURE))
def test_the_model_and_its_losses_need_no_ray(path):
    assert touches(reachable(ROOT / path), "ray") == []


def test_ray_is_imported_where_processes_are_started_and_nowhere_else():
    """Everything else runs in a plain Python; ``tests/test_model.py`` runs it there."""
    found = {path for path in relative(SOURCES) if touches(imported(ROOT / path), "ray")}
    assert {path for path in found if not path.startswith("dreamrl/rl/")} == {
        "dreamrl/cluster.py",
        "dreamrl/collect.py",
        "dreamrl/pretrain.py",
        "dreamrl/ray_metrics.py",
        "dreamrl/serving/deployment.py",
        "dreamrl/serving/launch.py",
        "dreamrl/submit.py",
        "dreamrl/tune/on_ray.py",
    }


@pytest.mark.parametrize("path", relative((ROOT / "envs").rglob("*.py")))
def test_environments_do_not_know_the_algorithm(path):
    assert touches(reachable(ROOT / path), "dreamrl.rl") == []


@pytest.mark.parametrize("path", relative(SOURCES))
def test_nothing_loads_pickles(path):
    for module in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"):
        assert touches(imported(ROOT / path), module) == []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            call = ast.unparse(node)
            assert not call.startswith(("torch.load(", "torch.save(", "yaml.load(", "yaml.unsafe_load(")), call
            assert not (call.startswith(("np.load(", "numpy.load(")) and "allow_pickle" in call), call


def test_the_walk_sees_late_and_indirect_imports(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("def f():\n    from ray import tune\n    import dreamrl.errors\n")
    assert touches(imported(file), "ray") == ["ray", "ray.tune"]
    assert "difflib" in reachable(file)
