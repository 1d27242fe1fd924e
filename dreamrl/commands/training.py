"""``dreamrl train``, ``pretrain``, ``ppo``, ``collect`` and ``submit``: what computes on Ray."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamrl import preflight, settings
from dreamrl.commands.checks import MODEL_HELP, add_address, check_address, check_model, check_world_of, in_range, sizes
from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.shipped import model_directory

STAGES = {"train": ("pretrain", "ppo", "eval"), "pretrain": ("pretrain",), "ppo": ("ppo", "eval")}
"""What each training command runs, in order."""
MAX_RESTARTS = 10_000


def training_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """What ``command``, one of :data:`STAGES`, may be given."""
    add = parser.add_argument
    add(
        "--preset", help=f"settings to start from: {', '.join(settings.presets())} (default: {settings.DEFAULT_PRESET})"
    )
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    add("--out", type=Path, metavar="DIR", help=f"directory of the run (default: runs/{command}-PRESET-seedSEED)")
    add("--resume", type=Path, metavar="DIR", help="continue the run in DIR, with its settings")
    add_address(parser)
    add("--seed", type=int, metavar="N", help="seed of everything random (default: 0)")
    add("--overwrite", action="store_true", help="replace the run in --out")
    add("--deterministic", action="store_true", help="refuse operations that may round differently from run to run")
    add("--storage", metavar="URI", help="keep a copy there, such as s3://bucket/run; --resume can fetch it")
    add("--restarts", type=int, default=0, metavar="N", help="go on by itself if its process is killed, N times")
    if command == "ppo":
        add("--model", type=model_directory, metavar="MODEL", help=f"model to start from: {MODEL_HELP}")
    else:
        add("--data", type=Path, metavar="DIR", help="pretrain on what `dreamrl collect` wrote (default: play anew)")
    add("overrides", nargs="*", metavar="key=value", help="single settings, such as ppo.lr=1e-3 or world.sizes=3,4")
    parser.set_defaults(model=None, data=None)


def train(args: argparse.Namespace) -> None:
    """Start or resume a run."""
    from dreamrl.manifest import data_for

    restarts = in_range("--restarts", args.restarts, 0, MAX_RESTARTS)
    config, out = _resumed(args) if args.resume else _new_run(args)
    check_world_of(config)
    if config.storage:
        from dreamrl.storage import Storage

        Storage(config.storage)
    if args.model:
        check_model(args.model)
    check_address(args.address)
    preflight.check_device(config, args.address, STAGES[args.command])
    data = data_for(config, out, args.data, args.resume is not None, args.overwrite)

    if args.overwrite:
        preflight.remove_run(out)
    if restarts:
        from dreamrl.supervise import supervise

        raise SystemExit(
            supervise(args.command, _without_restarts(args.argv), out, ["--address", args.address], restarts)
        )
    from dreamrl.run import train as run_stages

    try:
        collected = {"collected": data} if data else {}
        run_stages(config, out, args.address, STAGES[args.command], args.resume is not None, args.model, **collected)
    except KeyboardInterrupt as stopped:
        again = f"interrupted; continue with `dreamrl {args.command} --resume {out}`"
        raise KeyboardInterrupt(str(stopped) or (again if (out / preflight.RUN_CONFIG).exists() else "")) from None


def _without_restarts(argv: list[str]) -> list[str]:
    """``argv`` for the process that works; what --overwrite asks for has been done."""
    left, kept = iter(argv), []
    for argument in left:
        if argument == "--restarts":
            next(left)
        elif argument != "--overwrite" and not argument.startswith("--restarts="):
            kept.append(argument)
    return kept


def _new_run(args: argparse.Namespace) -> tuple[RunConfig, Path]:
    given = ["deterministic=true"] * args.deterministic + ([f"storage={args.storage}"] if args.storage else [])
    config = settings.load_settings(args.preset, args.config, [*args.overrides, *given], args.seed)
    out = args.out or Path("runs") / f"{args.command}-{config.preset}-seed{config.seed}"
    preflight.check_out(out, args.overwrite)
    return config, out


def _resumed(args: argparse.Namespace) -> tuple[RunConfig, Path]:
    file = args.resume / preflight.RUN_CONFIG
    flags = {"--preset": args.preset, "--config": args.config, "--out": args.out, "--seed": args.seed}
    flags["--data"] = args.data
    given = [flag for flag, value in flags.items() if value is not None]
    given += ["--overwrite"] * args.overwrite + ["--deterministic"] * args.deterministic + args.overrides
    if given:
        raise UserError(f"--resume takes everything from {file}, which {given[0]} contradicts; drop one of them")
    if args.storage and not args.resume.exists():
        from dreamrl.storage import Storage

        preflight.check_writable(args.resume)
        Storage(args.storage).pull(args.resume)
        print(f"{args.command}: fetched {args.resume} from {args.storage}", flush=True)
    if not file.is_file():
        raise UserError(f"nothing to resume: {file} does not exist; give the directory of a run")
    config = settings.read_yaml(file)
    if args.storage and args.storage != config.storage:
        raise UserError(f"--storage {args.storage} contradicts storage ({config.storage}) in {file}; drop --storage")
    preflight.check_writable(args.resume)
    return config, args.resume


def collect_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``collect`` may be given."""
    add = parser.add_argument
    add("--world", required=True, help="a world of `dreamrl worlds`, package.module:Name, or several as in A+B*2")
    add("--num", type=int, required=True, metavar="N", help="records, of one scene each")
    add("--out", type=Path, required=True, metavar="DIR", help="where to; what is finished there is gone on with")
    add("--sizes", type=sizes, metavar="3,4", help="sizes of the scenes (default: the world's own choice)")
    add("--seed", type=int, metavar="S", help="seed of everything random (default: 0)")
    add("--shard-size", type=int, default=1024, metavar="K", help="records of a file (default: 1024)")
    add("--workers", type=int, default=2, metavar="N", help="files that are written at a time (default: 2)")
    add_address(parser)
    add("--preset", help=f"settings of the run that the records are for (default: {settings.DEFAULT_PRESET})")
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    add("overrides", nargs="*", metavar="key=value", help="single settings, such as model.dream_length=6")


def collect(args: argparse.Namespace) -> None:
    """Write records of random play."""
    from dreamrl.collect import collect as write_records
    from dreamrl.collect import collect_settings

    num = in_range("--num", args.num, 1, 10**10)
    shard_size = in_range("--shard-size", args.shard_size, 1, 10**6)
    workers = in_range("--workers", args.workers, 1, 1024)
    config = collect_settings(args.world, args.sizes, args.preset, args.config, args.overrides, args.seed)
    check_address(args.address)
    write_records(config, args.out, num, shard_size, workers, args.address)


def submit_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``submit`` may be given; the rest is the command that becomes a job."""
    add = parser.add_argument
    add("--address", metavar="URL", help="the cluster's dashboard (default: http://127.0.0.1:8265)")
    add("--wait", action="store_true", help="show the job's progress until it ends, then fetch its summary")
    add("--out", type=Path, metavar="DIR", help="with --wait: where summary.json goes (default: runs/JOB)")
    add("job", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="such as train --preset nano --out /shared/run")


def submit(args: argparse.Namespace) -> None:
    """Run a command as a job; exits with the job's code."""
    from dreamrl.submit import submit as submit_job

    if args.out and not args.wait:
        raise UserError("--out is where --wait puts the summary; add --wait, or give --out after the command")
    raise SystemExit(submit_job(args))
