"""What each command of ``dreamrl`` checks before it starts, and what it then calls.

Nothing slow (torch, Ray) is imported before the checks have passed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dreamrl import preflight, settings
from dreamrl.arguments import DEFAULT_ITEMS, STAGES
from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.printing import dream_line, print_result, quiet_stdout

MAX_DREAMS = 1024
MAX_SEED = 2**31 - 1


def _train(args: argparse.Namespace) -> None:
    from dreamrl.manifest import data_for

    config, out = _resumed(args) if args.resume else _new_run(args)
    _check_world_of(config)
    if args.model:
        _check_model(args.model)
    _check_address(args.address)
    data = data_for(config, out, args.data, args.resume is not None, args.overwrite)

    from dreamrl.run import train

    if args.overwrite:
        preflight.remove_run(out)
    try:
        collected = {"collected": data} if data else {}
        train(config, out, args.address, STAGES[args.command], args.resume is not None, args.model, **collected)
    except KeyboardInterrupt as stopped:
        again = f"interrupted; continue with `dreamrl {args.command} --resume {out}`"
        raise KeyboardInterrupt(str(stopped) or (again if (out / preflight.RUN_CONFIG).exists() else "")) from None


def _new_run(args: argparse.Namespace) -> tuple[RunConfig, Path]:
    config = settings.load_settings(args.preset, args.config, args.overrides, args.seed)
    out = args.out or Path("runs") / f"{args.command}-{config.preset}-seed{config.seed}"
    preflight.check_out(out, args.overwrite)
    return config, out


def _resumed(args: argparse.Namespace) -> tuple[RunConfig, Path]:
    file = args.resume / preflight.RUN_CONFIG
    flags = {"--preset": args.preset, "--config": args.config, "--out": args.out, "--seed": args.seed}
    flags["--data"] = args.data
    given = [flag for flag, value in flags.items() if value is not None]
    given += ["--overwrite"] * args.overwrite + args.overrides
    if given:
        raise UserError(f"--resume takes everything from {file}, which {given[0]} contradicts; drop one of them")
    if not file.is_file():
        raise UserError(f"nothing to resume: {file} does not exist; give the directory of a run")
    config = settings.read_yaml(file)
    preflight.check_writable(args.resume)
    return config, args.resume


def _collect(args: argparse.Namespace) -> None:
    from dreamrl.collect import collect, collect_settings

    num = _in_range("--num", args.num, 1, 10**10)
    shard_size = _in_range("--shard-size", args.shard_size, 1, 10**6)
    workers = _in_range("--workers", args.workers, 1, 1024)
    config = collect_settings(args.world, args.sizes, args.preset, args.config, args.overrides, args.seed)
    _check_address(args.address)
    collect(config, args.out, num, shard_size, workers, args.address)


def _submit(args: argparse.Namespace) -> None:
    from dreamrl.submit import submit

    if args.out and not args.wait:
        raise UserError("--out is where --wait puts the summary; add --wait, or give --out after the command")
    raise SystemExit(submit(args))


def _ablate(args: argparse.Namespace) -> None:
    from dreamrl.ablation import variant_lines
    from dreamrl.ablation_runner import ablate

    if args.list:
        print("\n".join(variant_lines()))
        return
    names = [] if args.variants is None else [name.strip() for name in args.variants.split(",")]
    ablate(args.out, names, args.seeds, args.workers, args.budget, args.overrides)


def _tune(args: argparse.Namespace) -> None:
    from dreamrl.tune import checked, search

    plan, out = checked(args.file, args.out, args.resume)
    _check_address(args.address)
    search(plan, out, args.address)


def _feedback(args: argparse.Namespace) -> None:
    from dreamrl.feedback import MAX_EPOCHS, read_feedback_for

    epochs = _in_range("--epochs", args.epochs, 1, MAX_EPOCHS)
    seed = _in_range("--seed", args.seed, 0, MAX_SEED)
    if args.out.exists() or args.out.is_symlink():
        raise UserError(f"{args.out} exists; choose another --out")
    preflight.check_writable(args.out)
    records = read_feedback_for(args.model_dir, args.file)
    with quiet_stdout(args.json):
        from dreamrl.feedback_report import feedback_command, print_feedback

        result = feedback_command(args.model_dir, records, args.out, epochs, seed)
    if args.json:
        print_result(result, as_json=True)
    else:
        print_feedback(result)


def _bench(args: argparse.Namespace) -> None:
    from dreamrl.bench.run import BENCHMARKS, run_bench

    if args.list:
        width = max(map(len, BENCHMARKS))
        print("\n".join(f"{name:<{width}}  {text}" for name, text in BENCHMARKS.items()))
        return
    if args.name is None:
        raise UserError(f"give the name of a benchmark: {', '.join(BENCHMARKS)}")
    with quiet_stdout(args.json):
        result = run_bench(args.name, args.settings)
    print_result(result, args.json)


def _eval(args: argparse.Namespace) -> None:
    for flag, value in (("--num", args.num), ("--sizes", args.sizes)):
        if args.items and value is not None:
            raise UserError(f"--items names the scenes, which {flag} contradicts; drop one of them")
    if args.save and not args.intervene:
        raise UserError("--save writes pictures of edited dreams; it needs --intervene")
    num = _in_range("--num", DEFAULT_ITEMS if args.num is None else args.num, 1, 10**7)
    seed = _in_range("--seed", args.seed, 0, MAX_SEED)
    dreams = _in_range("--dreams", args.dreams, 1, MAX_DREAMS)
    _check_world(args.world, args.sizes)
    items = None
    if args.items:
        from dreamrl.items import read_items

        items = read_items(args.items, args.world)
    if args.save:
        preflight.check_new_directory(args.save)
    _check_model(args.model_dir)
    if args.intervene:
        _intervene(args, items, num, seed, dreams)
        return
    with quiet_stdout(args.json):
        from dreamrl.evaluate import evaluate_command

        result = evaluate_command(args.model_dir, args.world, items, num, seed, args.sizes, dreams)
    print_result(result, args.json)


def _intervene(args: argparse.Namespace, items: list[dict] | None, num: int, seed: int, dreams: int) -> None:
    with quiet_stdout(args.json):
        from dreamrl.intervene import intervene_command

        result = intervene_command(args.model_dir, args.world, items, num, seed, args.sizes, dreams, args.save)
    if args.json:
        print_result(result, as_json=True)
    else:
        from dreamrl.trials import print_trials

        print_trials(result)


def _generate(args: argparse.Namespace) -> None:
    if args.image and args.world:
        raise UserError("--image and --world contradict each other; drop one of them")
    if args.options and not args.world:
        raise UserError("--options describes a scene of a world; say which with --world")
    seed = _in_range("--seed", args.seed, 0, MAX_SEED)
    dreams = _in_range("--dreams", args.dreams, 1, MAX_DREAMS)
    options = _scene_options(args.world, args.options) if args.world else None
    for image in args.image or []:
        preflight.check_image(image)
    max_length = None if args.max_length is None else _in_range("--max-length", args.max_length, 1, 4096)
    temperature, top_p = _share("--temperature", args.temperature, 100), _share("--top-p", args.top_p, 1)
    if args.output != "text" and not args.save:
        raise UserError(f"--output {args.output} needs --save DIR to write the picture to")
    if args.save:
        preflight.check_new_directory(args.save)
    _check_model(args.model_dir)
    with quiet_stdout(args.json):
        from dreamrl.generate import generate_command

        result = generate_command(
            args.model_dir,
            args.prompt,
            args.world,
            options,
            args.image,
            args.save,
            num_dreams=dreams,
            seed=seed,
            output_mode=args.output,
            temperature=temperature,
            top_p=top_p,
            max_length=max_length,
            watch_dreams=args.watch,
        )
    if not args.json:
        result = result | {"dreams": {n: dream_line(steps) for n, steps in enumerate(result["dreams"], 1)}}
    print_result(result, args.json)


def _worlds(args: argparse.Namespace) -> None:
    from envs.registry import WORLDS, make_world

    if args.action == "list":
        if args.world:
            raise UserError("`dreamrl worlds list` takes no world; use `dreamrl worlds check WORLD`")
        if args.json:
            print(json.dumps({name: text for name, (_, text) in WORLDS.items()}))
            return
        width = max(map(len, WORLDS))
        print("\n".join(f"{name:<{width}}  {text}" for name, (_, text) in WORLDS.items()))
        return
    if not args.world:
        raise UserError(
            "which world? `dreamrl worlds check WORLD`, by a name of `dreamrl worlds` or package.module:Name"
        )
    world = make_world(args.world)
    with quiet_stdout(args.json):
        from envs.conformance import check_world, print_findings

        findings = check_world(world)
        if not args.json:
            print_findings(world, findings)
    if args.json:
        print(json.dumps([finding.as_dict() for finding in findings]))
    failed = sum(not finding.ok for finding in findings)
    if failed:
        raise UserError(f"{world.name} fails {failed} of {len(findings)} checks")


COMMANDS = {
    "train": _train,
    "pretrain": _train,
    "ppo": _train,
    "collect": _collect,
    "submit": _submit,
    "ablate": _ablate,
    "tune": _tune,
    "eval": _eval,
    "generate": _generate,
    "feedback": _feedback,
    "bench": _bench,
    "worlds": _worlds,
}
"""Name of a command -> what checks its arguments and does its work."""


def _check_world(name: str, sizes: tuple[int, ...] | None = None) -> None:
    """Raise unless ``name`` is a world, or a mixture as in "a+b", with scenes of ``sizes``."""
    from envs.registry import make_world

    parts = [make_world(part) for part in name.split("+")]
    if len(parts) == 1 and sizes is not None:
        parts[0].check_sizes(sizes)


def _check_world_of(run: RunConfig) -> None:
    from dreamrl.curriculum import stages_of
    from envs.registry import world_of

    stages_of(run, world_of(run))


def _check_address(address: str) -> None:
    from dreamrl.addresses import require_token

    preflight.check_address(address)
    require_token(address)


def _check_model(directory: Path) -> None:
    from dreamrl.checkpoint import check_model_files

    check_model_files(directory)


def _scene_options(world: str, text: str | None) -> dict[str, Any] | None:
    """The scene that --options describes, accepted by the world; None leaves the choice to the seed."""
    from envs.registry import make_world

    made = make_world(world)
    if text is None:
        return None
    try:
        options = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"--options is not valid JSON ({error}); put it in single quotes") from error
    if not isinstance(options, dict):
        raise UserError(f"--options ({text}) must be a JSON object")
    made.scene(options)
    return options


def _in_range(flag: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise UserError(f"{flag} ({value}) must be between {low} and {high}")
    return value


def _share(flag: str, value: float, high: float) -> float:
    if not 0 <= value <= high:
        raise UserError(f"{flag} ({value:g}) must be between 0 and {high:g}")
    return value
