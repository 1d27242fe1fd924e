"""What the ``dreamrl`` command line may hold. Other programs call it, so flags are added and never renamed."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
from pathlib import Path
from typing import NoReturn

from dreamrl import settings
from dreamrl.errors import EXIT_OK, UserError, nearest
from dreamrl.shipped import model_directory, shipped

STAGES = {"train": ("pretrain", "ppo", "eval"), "pretrain": ("pretrain",), "ppo": ("ppo", "eval")}
"""What each training command runs, in order."""
DEFAULT_ITEMS = 600
MODEL_HELP = " or ".join(["model/ directory of a run", *shipped()])


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of ``argv``, or a UserError that suggests the nearest name for a typo."""
    parser, commands = _parser()
    if not argv:
        raise UserError(f"no command; try `dreamrl train`, or `dreamrl --help` (commands: {', '.join(commands)})")
    if argv[0] == "--version":
        print(f"dreamrl {importlib.metadata.version('dreamrl')}")
        raise SystemExit(EXIT_OK)
    if argv[0] in ("-h", "--help"):
        parser.print_help()
        raise SystemExit(EXIT_OK)
    if argv[0].startswith("-"):
        raise UserError(f'"{argv[0]}" stands before the command; write `dreamrl COMMAND {argv[0]} ...`')
    if argv[0] not in commands:
        raise UserError(f'unknown command "{argv[0]}"; {nearest(argv[0], commands)}')
    _check_flags(_before_job(argv), commands[argv[0]])
    # argparse stops taking key=value arguments at the first flag after one: it hands back the others as unknown.
    args, others = parser.parse_known_args(argv)
    if "overrides" in args:
        args.overrides += others
    elif others:
        hint = "; put the whole prompt in quotes" if args.command == "generate" else ""
        raise UserError(f'unexpected argument "{others[0]}"{hint}')
    return args


def _before_job(argv: list[str]) -> list[str]:
    """``argv`` without the command that ``submit`` wraps, whose flags are checked as that command's."""
    if argv[0] == "submit":
        for index in range(1, len(argv)):
            if not argv[index].startswith("-") and argv[index - 1] not in ("--address", "--out"):
                return argv[:index]
    return argv


def _check_flags(argv: list[str], command: argparse.ArgumentParser) -> None:
    """Find a mistyped flag before argparse complains of what is missing because of it."""
    flags = ["-h", "--help", *re.findall("--[a-z][a-z-]*", command.format_usage())]
    for argument in argv[1:]:
        if argument == "--":
            return
        flag = argument.partition("=")[0]
        if flag.startswith("-") and flag not in flags and not re.fullmatch(r"-[\d.]+", flag):
            raise UserError(f'{command.prog} has no flag "{flag}"; {nearest(flag, flags)}')


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing the usage and exiting, so that all errors look alike."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(prog="dreamrl", description="Train models that reason in dreams.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    helps = {
        "train": "pretrain on random play, PPO in dreams, evaluate: the main job",
        "pretrain": "only pretrain on random play",
        "ppo": "only PPO in dreams, then evaluate",
    }
    for name, text in helps.items():
        _training_arguments(commands.add_parser(name, help=text, description=text, allow_abbrev=False), name)
    text = "play at random ahead of pretraining and keep the records"
    _collect_arguments(commands.add_parser("collect", help=text, description=text, allow_abbrev=False))
    text = "run train, pretrain, ppo, collect or tune as a job of a Ray cluster"
    _submit_arguments(commands.add_parser("submit", help=text, description=text, allow_abbrev=False))
    text = "train variants of the model over several seeds and compare them"
    _ablate_arguments(commands.add_parser("ablate", help=text, description=text, allow_abbrev=False))
    text = "search for good settings over many trials on Ray Tune"
    _tune_arguments(commands.add_parser("tune", help=text, description=text, allow_abbrev=False))
    text = "learn from ratings or preferences of people how answers are to be worded"
    _feedback_arguments(commands.add_parser("feedback", help=text, description=text, allow_abbrev=False))
    text = "measure a model on held-out or given items"
    _eval_arguments(commands.add_parser("eval", help=text, description=text, allow_abbrev=False))
    text = "answer one prompt"
    _generate_arguments(commands.add_parser("generate", help=text, description=text, allow_abbrev=False))
    text = "list the worlds, or check one"
    _worlds_arguments(commands.add_parser("worlds", help=text, description=text, allow_abbrev=False))
    text = "measure one mechanism"
    _bench_arguments(commands.add_parser("bench", help=text, description=text, allow_abbrev=False))
    return parser, commands.choices


def _training_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    add = parser.add_argument
    add(
        "--preset", help=f"settings to start from: {', '.join(settings.presets())} (default: {settings.DEFAULT_PRESET})"
    )
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    add("--out", type=Path, metavar="DIR", help=f"directory of the run (default: runs/{command}-PRESET-seedSEED)")
    add("--resume", type=Path, metavar="DIR", help="continue the run in DIR, with its settings")
    add(
        "--address", default="local", help="local, auto, host:port or ray://host:port of a Ray cluster (default: local)"
    )
    add("--seed", type=int, metavar="N", help="seed of everything random (default: 0)")
    add("--overwrite", action="store_true", help="replace the run in --out")
    if command == "ppo":
        add("--model", type=model_directory, metavar="MODEL", help=f"model to start from: {MODEL_HELP}")
    else:
        add("--data", type=Path, metavar="DIR", help="pretrain on what `dreamrl collect` wrote (default: play anew)")
    add("overrides", nargs="*", metavar="key=value", help="single settings, such as ppo.lr=1e-3 or world.sizes=3,4")
    parser.set_defaults(model=None, data=None)


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--world", required=True, help="a world of `dreamrl worlds`, package.module:Name, or several as in A+B*2")
    add("--num", type=int, required=True, metavar="N", help="records, of one scene each")
    add("--out", type=Path, required=True, metavar="DIR", help="where to; what is finished there is gone on with")
    add("--sizes", type=_sizes, metavar="3,4", help="sizes of the scenes (default: the world's own choice)")
    add("--seed", type=int, metavar="S", help="seed of everything random (default: 0)")
    add("--shard-size", type=int, default=1024, metavar="K", help="records of a file (default: 1024)")
    add("--workers", type=int, default=2, metavar="N", help="files that are written at a time (default: 2)")
    add(
        "--address", default="local", help="local, auto, host:port or ray://host:port of a Ray cluster (default: local)"
    )
    add("--preset", help=f"settings of the run that the records are for (default: {settings.DEFAULT_PRESET})")
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    add("overrides", nargs="*", metavar="key=value", help="single settings, such as model.dream_length=6")


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--address", metavar="URL", help="the cluster's dashboard (default: http://127.0.0.1:8265)")
    add("--wait", action="store_true", help="show the job's progress until it ends, then fetch its summary")
    add("--out", type=Path, metavar="DIR", help="with --wait: where summary.json goes (default: runs/JOB)")
    add("job", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="such as train --preset nano --out /shared/run")


def _ablate_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("runs/ablation"),
        metavar="DIR",
        help="results; what is there is gone on with (default: runs/ablation)",
    )
    add("--variants", metavar="A,B", help="only these, by the names that --list prints (default: all)")
    add("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    add("--workers", type=int, default=2, metavar="N", help="processes at a time, of one thread each (default: 2)")
    add("--budget", type=float, default=1.0, metavar="X", help="X times the preset's updates (default: 1)")
    add("--list", action="store_true", help="print the variants and exit")
    add("overrides", nargs="*", metavar="key=value", help="settings of all variants, such as ppo.lr=1e-3")


def _tune_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="FILE", help="what is searched, such as tune_configs/smoke.yaml")
    add("--out", type=Path, metavar="DIR", help="directory of the search (default: runs/tune-FILE)")
    add("--resume", type=Path, metavar="DIR", help="go on with the search in DIR")
    add(
        "--address", default="local", help="local, auto, host:port or ray://host:port of a Ray cluster (default: local)"
    )


def _feedback_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model_dir", type=model_directory, metavar="MODEL", help=MODEL_HELP)
    add("file", type=Path, metavar="FILE.jsonl", help='{"prompt", "reward"} or {"prompt", "chosen", "rejected"} a line')
    add("--out", type=Path, required=True, metavar="DIR", help="where the new model is saved; must not exist yet")
    add("--epochs", type=int, default=3, metavar="N", help="passes over the training questions (default: 3)")
    add("--seed", type=int, default=0, metavar="N", help="seed of everything random (default: 0)")
    add("--json", action="store_true", help="print one JSON object")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="which, by the names that --list prints")
    add("settings", nargs="*", metavar="key=value", help="settings of the benchmark, such as steps=500")
    add("--list", action="store_true", help="print the benchmarks and exit")
    add("--json", action="store_true", help="print one JSON object")


def _worlds_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", nargs="?", choices=("list", "check"), default="list", help="what to do (default: list)")
    add("world", nargs="?", metavar="WORLD", help="which to check: a name of the list or package.module:Name")
    add("--json", action="store_true", help="print JSON")


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model_dir", type=model_directory, metavar="MODEL", help=MODEL_HELP)
    add("--world", required=True, help="a world of `dreamrl worlds`, such as frozen_lake, or package.module:Name")
    add("--items", type=Path, metavar="FILE", help="JSON Lines, one object of world options a line")
    add("--num", type=int, metavar="N", help=f"held-out scenes to sample (default: {DEFAULT_ITEMS})")
    add("--seed", type=int, default=0, metavar="S", help="seed of the scenes and dreams (default: 0)")
    add("--sizes", type=_sizes, metavar="3,4", help="sizes of the sampled scenes (default: those trained on)")
    add("--dreams", type=int, default=4, metavar="N", help="dreams per item (default: 4)")
    add("--intervene", action="store_true", help="edit the dreams that answers were read from, and answer again")
    add("--save", type=Path, metavar="DIR", help="with --intervene: write a few edited dreams there as pictures")
    add("--json", action="store_true", help="print one JSON object")


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model_dir", type=model_directory, metavar="MODEL", help=MODEL_HELP)
    add("prompt", help="a question, in quotes")
    add("--world", metavar="W", help="ask about a scene of this world")
    add("--options", metavar="JSON", help='which scene, such as \'{"desc": ["SFF", "FHF", "FFG"]}\'')
    add("--image", type=Path, action="append", metavar="FILE", help="ask about this picture; again for further ones")
    add("--output", choices=("text", "image", "both"), default="text", help="answer in words or as a picture")
    add("--temperature", type=float, default=0.0, metavar="T", help="of the answer's words; 0 is greedy (default: 0)")
    add("--top-p", type=float, default=1.0, metavar="P", help="nucleus of the words that are sampled (default: 1)")
    add("--max-length", type=int, metavar="N", help="longest answer in tokens")
    add("--dreams", type=int, default=4, metavar="N", help="dreams (default: 4)")
    add("--save", type=Path, metavar="DIR", help="write the dreams there as pictures")
    add("--json", action="store_true", help="print one JSON object")
    add("--watch", action="store_true", help="draw the dreams in the terminal while they are imagined")
    add("--seed", type=int, default=0, metavar="N", help="seed of the dreams (default: 0)")


def _sizes(text: str) -> tuple[int, ...]:
    """``3,4`` as (3, 4)."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'"{text}" must be whole numbers with commas, such as 3,4') from error
