"""What the documents show works: every block is parsed, and what does not need hours or a cluster is run.

A Python block is run; after `<!-- file: NAME -->` it becomes a file that later blocks of the document use. A shell
block is run after `<!-- run -->`, and only read after `<!-- not run: REASON -->`. YAML and JSON must parse, and hold
settings.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from programs import kill

import dreamrl
from dreamrl import settings
from dreamrl.arguments import make_parser, parse
from dreamrl.commands import COMMANDS
from dreamrl.commands.checks import check_world, check_world_of, scene_options
from dreamrl.commands.training import STAGES
from dreamrl.submit import entrypoint_of
from dreamrl.tune.plan import plan_from, read_plan

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
LANGUAGES = {"python", "sh", "text", "yaml", "json"}
FENCE = re.compile(r"(?:^<!-- (?P<mark>[^\n]+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block, the comment right above it, and the line on which it begins."""

    document: str
    line: int
    language: str
    mark: str
    code: str

    def __str__(self):
        return f"{self.document}:{self.line}"


def blocks(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    return [
        Block(document, text.count("\n", 0, m.start()) + 1, m["language"], m["mark"] or "", m["code"])
        for m in FENCE.finditer(text)
    ]


ALL = [block for document in DOCUMENTS for block in blocks(document)]


def of(*languages):
    return pytest.mark.parametrize("block", [b for b in ALL if b.language in languages], ids=str)


def commands(code):
    """The commands of a shell block, comments removed and lines joined; what is piped or chained by itself."""
    joined = code.replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [line for line in lines if line]


def dreamrl_lines(block):
    for words in commands(block.code):
        if words[0] in ("dreamrl", ".venv/bin/dreamrl"):
            yield words[1:]


def test_every_fence_is_found():
    for document in DOCUMENTS:
        fences = re.findall(r"^```", (ROOT / document).read_text(encoding="utf-8"), re.M)
        assert len(fences) == 2 * len(blocks(document)), document


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_says_its_language_and_why_it_is_not_run(block):
    assert block.language in LANGUAGES
    if block.language == "sh":
        rule = "put `<!-- run -->` or `<!-- not run: REASON -->` on the line above"
        assert block.mark == "run" or re.fullmatch(r"not run: .{5,}", block.mark), rule
    if block.language == "python":
        assert re.fullmatch(r"|file: \w+\.py|not run: .{5,}", block.mark)


@of("sh")
def test_commands_can_be_typed(block, monkeypatch, tmp_path):
    """Bash reads the block, ``dreamrl`` its command lines, with settings, worlds and scenes that exist."""
    for other in blocks(block.document):  # a world that the document has shown
        if other.mark.startswith("file: "):
            (tmp_path / other.mark.removeprefix("file: ")).write_text(other.code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    for words in dreamrl_lines(block):
        args = parse(words)
        if args.command in STAGES and not args.resume and (args.config is None or args.config.exists()):
            check_world_of(settings.load_settings(args.preset, args.config, args.overrides, args.seed))
        elif args.command == "submit":
            entrypoint_of(args.job)
        elif args.command == "tune" and args.file:
            read_plan(args.file)
        elif args.command == "eval":
            check_world(args.world, args.sizes)
        elif args.command == "generate" and args.world:
            scene_options(args.world, args.options)
    for words in commands(block.code):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words[1]


@of("text")
def test_synopses_name_real_flags(block):
    _, parsers = make_parser()
    for line in block.code.splitlines():
        if line.startswith("dreamrl "):
            names, *_ = line.split()[1:]
            for name in names.split("|"):
                known = set(parsers[name]._option_string_actions)
                flags = re.findall(r"(?<![\w-])--[a-z][a-z-]*", line.partition("#")[0])
                assert name in parsers and (set(flags) <= known or "train|" in line), (line, set(flags) - known)


def test_the_readme_lists_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = {name for names in re.findall(r"^dreamrl ([a-z|]+)", text, re.M) for name in names.split("|")}
    assert listed == set(COMMANDS)


@of("yaml", "json")
def test_data_parses_and_holds_settings(block):
    if block.language == "json":
        json.loads(block.code)
        return
    data = yaml.safe_load(block.code)
    if "space" in data:
        plan_from(data, str(block))
    else:
        settings.from_dict(data, str(block))


# --- run

SECONDS = 1200
"""Far more than any block takes on an idle machine."""


def in_shell(folder):
    """Environment in which ``dreamrl`` and ``.venv/bin/dreamrl`` are this one, with ``folder`` as a home."""
    program = f'#!/bin/sh\nexec "{sys.executable}" -m dreamrl "$@"\n'
    for path in (folder / "bin" / "dreamrl", folder / ".venv" / "bin" / "dreamrl"):
        path.parent.mkdir(parents=True)
        path.write_text(program)
        path.chmod(0o755)
    return {
        **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }  # fmt: skip


def is_run(block):
    """Python runs unless it is marked as something else, a shell's lines only if they are marked."""
    return block.mark == "run" or (block.language == "python" and not block.mark)


def run_document(document, folder):
    """Run its blocks in order in ``folder``; what each printed, by its line."""
    environment, printed = in_shell(folder), {}
    for block in blocks(document):
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.code)
            continue
        if not is_run(block):
            continue
        command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euc"]
        command = [*command, block.code]
        printed[block] = output_of(block, command, folder, environment)
    return printed


def output_of(block, command, folder, environment):
    """What ``command`` prints to stdout; if it takes too long it is ended with all that it started."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, f"{block}\n{printed}\n{errors}"
    return printed


RUN = [d for d in DOCUMENTS if d != "docs/TUTORIAL.md" and any(is_run(b) for b in blocks(d))]


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("document", RUN)
def test_blocks_run(document, tmp_path):
    assert run_document(document, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.ray
def test_the_tutorial_ends_with_a_model_that_knows_its_world(tmp_path, monkeypatch):
    printed = run_document("docs/TUTORIAL.md", tmp_path)
    check, _, measured, asked, python = printed.values()
    assert check.count("  ok  ") == 9
    result = json.loads(measured)
    assert result["exact_frame"] > 0.95 and result["exact_match"] > 0.3  # the best constant plan: 0.2
    assert "output" in asked and len(python.splitlines()) == 3
    assert list((tmp_path / "dreams").iterdir())
    monkeypatch.syspath_prepend(tmp_path)
    import orchard  # type: ignore[reportMissingImports]

    from dreamrl import DreamingReasoningLLM

    model = DreamingReasoningLLM.load_pretrained(tmp_path / "runs" / "orchard" / "model")
    right = []
    for seed in range(40):
        moves = [("left", "left"), ("right",), ("right", "right"), ("left", "right", "right")][seed % 4]
        truth = orchard.Orchard()
        truth.reset(seed=1000 + seed)
        outcome = "it is not decided yet"
        for number, move in enumerate(moves, 1):
            _, reward, over, _, _ = truth.step(int(move == "right"))
            if over:
                outcome = f"it {'succeeds' if reward else 'fails'} after {number} moves"
                break
        answer = model.generate(f"What happens after {', '.join(moves)}?", scene={"seed": 1000 + seed})["output"]
        right.append(answer == outcome)
    assert sum(right) >= 32, sum(right)  # always saying that it is undecided is right 27 times


# --- links and citation


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    missing = [
        target for target in targets
        if not target.startswith(("http://", "https://", "#"))
        and not ((ROOT / document).parent / target.partition("#")[0]).exists()
    ]  # fmt: skip
    assert missing == []


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", dreamrl.__version__)
    assert citation["license"] == "MIT" and citation["authors"][0]["name"] == "The dreamrl authors"
