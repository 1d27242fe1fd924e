"""The wheel: everything that the program reads comes along, and it works where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("dreamrl", "envs", "tune_configs")
MADE = ("__pycache__", "*.pyc", "*.egg-info", "build", ".*")
"""What is in a checkout because it was used."""

pytestmark = pytest.mark.slow


def run(*command, cwd, **variables):
    """What a command prints; whatever the shell or the checkout adds to Python's path is left out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DREAMRL"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept | variables, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: building in place would leave files behind, and take in what an older build left."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*MADE))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "-w", out, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs commands with the installed wheel, in an empty directory, without the checkout on any path."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index")
    run(*pip, "--target", site, wheel, cwd=empty)

    def python(*arguments):
        # PYTHONPATH stands before the site packages, and so before an editable install's finder.
        return run(sys.executable, "-W", "ignore", *arguments, cwd=empty, PYTHONPATH=str(site))

    for name in PACKAGES:
        found = Path(python("-c", f"import {name}; print({name}.__file__)").strip())
        assert found.is_relative_to(site), found
    return python


def sources():
    """Every file of the packages that belongs to them, as a path in the wheel."""
    ignored = shutil.ignore_patterns(*MADE)
    for package in PACKAGES:
        for directory, folders, files in os.walk(ROOT / package):
            folders[:] = sorted(set(folders) - ignored(directory, folders))
            for name in set(files) - ignored(directory, files):
                yield (Path(directory) / name).relative_to(ROOT).as_posix()


def test_every_file_of_the_packages_is_in_the_wheel_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        wanted = set(sources())
        assert {"dreamrl/assets/grafana.json", "dreamrl/serving/web/index.html", "dreamrl/report/report.css"} <= wanted
        assert names == wanted
        for name in names:
            assert archive.read(name) == (ROOT / name).read_bytes(), name


def test_the_license_and_the_command_come_along(wheel):
    with zipfile.ZipFile(wheel) as archive:
        texts = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        assert archive.read(texts["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
        assert b"dreamrl = dreamrl.cli:main" in archive.read(texts["entry_points.txt"])


def test_commands_answer(installed):
    assert "train" in installed("-m", "dreamrl", "--help")
    assert "frozen_lake" in installed("-m", "dreamrl", "worlds")
    assert installed("-m", "dreamrl", "--version").startswith("dreamrl ")
    assert "complete" in installed("-m", "dreamrl", "completion", "bash")


def test_a_shipped_model_answers_by_its_name(installed):
    board = json.dumps({"desc": ["SFF", "FHF", "FFG"]})
    prompt = "What happens if the elf moves right, right, down?"
    asked = ("generate", "frozen-lake", prompt, "--world", "frozen_lake", "--options", board, "--dreams", "2", "--json")
    result = json.loads(installed("-m", "dreamrl", *asked))
    assert result["output"] and result["dreams"] and result["warnings"] == []


READ = """
from pathlib import Path
from dreamrl import settings
from dreamrl.tune.plan import read_plan, shipped_searches
print(sorted(settings.presets()), sorted(shipped_searches()))
for preset in settings.presets():
    settings.load_settings(preset)
for name in shipped_searches():
    read_plan(Path("tune_configs") / f"{name}.yaml")  # as the documents say, in a directory without them
"""


def test_presets_and_searches_are_found(installed):
    presets = sorted(path.stem for path in (ROOT / "dreamrl" / "presets").glob("*.yaml"))
    searches = sorted(path.stem for path in (ROOT / "tune_configs").glob("*.yaml"))
    assert installed("-c", READ).strip() == f"{presets} {searches}"
