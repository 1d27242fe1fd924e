"""``dreamrl ablate``, ``tune`` and ``bench``: many trainings or measurements, compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamrl.commands.checks import add_address, check_address
from dreamrl.errors import UserError
from dreamrl.printing import print_result, quiet_stdout


def ablate_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``ablate`` may be given."""
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


def ablate(args: argparse.Namespace) -> None:
    """Train the variants, or list them."""
    from dreamrl.ablation.runner import ablate as run_variants
    from dreamrl.ablation.variants import variant_lines

    if args.list:
        print("\n".join(variant_lines()))
        return
    names = [] if args.variants is None else [name.strip() for name in args.variants.split(",")]
    run_variants(args.out, names, args.seeds, args.workers, args.budget, args.overrides)


def tune_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``tune`` may be given."""
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="FILE", help="what is searched, such as tune_configs/smoke.yaml")
    add("--out", type=Path, metavar="DIR", help="directory of the search (default: runs/tune-FILE)")
    add("--resume", type=Path, metavar="DIR", help="go on with the search in DIR")
    add_address(parser)


def tune(args: argparse.Namespace) -> None:
    """Start or resume a search."""
    from dreamrl.tune.search import checked, search

    plan, out = checked(args.file, args.out, args.resume)
    check_address(args.address)
    search(plan, out, args.address)


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``bench`` may be given."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="which, by the names that --list prints")
    add("settings", nargs="*", metavar="key=value", help="settings of the benchmark, such as steps=500")
    add("--list", action="store_true", help="print the benchmarks and exit")
    add("--json", action="store_true", help="print one JSON object")


def bench(args: argparse.Namespace) -> None:
    """Run a benchmark, or list them."""
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
