"""What ``dreamrl report`` and ``dreamrl compare`` take and do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dreamrl.commands.checks import MAX_SEED, check_world, in_range
from dreamrl.printing import print_result, quiet_stdout

MAX_QUESTIONS, MAX_DREAMS_SHOWN = 200, 16


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``dreamrl report``."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="directory of a run; further ones are other seeds of it"
    )
    _page_arguments(parser, "RUN/report.html")


def report(args: argparse.Namespace) -> None:
    """Write the report of a run."""
    out = args.out or args.runs[0] / "report.html"
    choices = _checked(args, out)
    with quiet_stdout(args.json):
        from dreamrl.process import settle
        from dreamrl.report.page import write_report

        settle()
        result = write_report(args.runs[0], out, others=args.runs[1:], **choices)
    print_result(result, args.json)


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``dreamrl compare``."""
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="directories of two runs of one world")
    _page_arguments(parser, "compare-RUN-RUN.html")


def compare(args: argparse.Namespace) -> None:
    """Set two runs side by side."""
    first, second = args.runs
    out = args.out or Path(f"compare-{first.resolve().name}-{second.resolve().name}.html")
    choices = _checked(args, out)
    with quiet_stdout(args.json):
        from dreamrl.process import settle
        from dreamrl.report.compare import write_comparison

        settle()
        result = write_comparison(first, second, out, **choices)
    print_result(result, args.json)


def _page_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", help=f"HTML file to write (default: {default})")
    add("--questions", type=int, default=30, metavar="N", help="held-out questions to show (default: 30)")
    add("--dreams", type=int, default=4, metavar="N", help="dreams of each (default: 4)")
    add("--seed", type=int, default=0, metavar="S", help="seed of the questions and dreams (default: 0)")
    add("--world", metavar="W", help="the runs' world, if it is code of your own that may be loaded")
    add("--export", type=Path, metavar="DIR", help="also write the dreams as GIF and PNG, and one JSON file")
    add("--overwrite", action="store_true", help="replace the file in --out")
    add("--json", action="store_true", help="print one JSON object")


def _checked(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The choices of both commands, once everything that can be checked has been."""
    from dreamrl.report.run_data import check_export, check_output, read_run

    choices = {
        "questions": in_range("--questions", args.questions, 1, MAX_QUESTIONS),
        "dreams": in_range("--dreams", args.dreams, 1, MAX_DREAMS_SHOWN),
        "seed": in_range("--seed", args.seed, 0, MAX_SEED),
        "export": args.export,
    }
    for run in args.runs:
        read_run(run)
    check_output(out, args.overwrite)
    if args.export:
        check_export(args.export)
    if args.world:
        check_world(args.world)
    return choices
