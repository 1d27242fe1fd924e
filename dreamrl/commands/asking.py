"""``dreamrl eval``, ``generate`` and ``feedback``: what asks a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamrl import preflight
from dreamrl.commands.checks import (
    MAX_DREAMS,
    MAX_SEED,
    MODEL_HELP,
    check_model,
    check_world,
    in_range,
    scene_options,
    share,
    sizes,
)
from dreamrl.errors import UserError
from dreamrl.printing import dream_line, print_result, quiet_stdout
from dreamrl.shipped import model_directory

DEFAULT_ITEMS = 600


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``eval`` may be given."""
    add = parser.add_argument
    add("model_dir", type=model_directory, metavar="MODEL", help=MODEL_HELP)
    add("--world", required=True, help="a world of `dreamrl worlds`, such as frozen_lake, or package.module:Name")
    add("--items", type=Path, metavar="FILE", help="JSON Lines, one object of world options a line")
    add("--num", type=int, metavar="N", help=f"held-out scenes to sample (default: {DEFAULT_ITEMS})")
    add("--seed", type=int, default=0, metavar="S", help="seed of the scenes and dreams (default: 0)")
    add("--sizes", type=sizes, metavar="3,4", help="sizes of the sampled scenes (default: those trained on)")
    add("--dreams", type=int, default=4, metavar="N", help="dreams per item (default: 4)")
    add("--intervene", action="store_true", help="edit the dreams that answers were read from, and answer again")
    add("--save", type=Path, metavar="DIR", help="with --intervene: write a few edited dreams there as pictures")
    add("--json", action="store_true", help="print one JSON object")


def evaluate(args: argparse.Namespace) -> None:
    """Measure a model, or edit its dreams."""
    for flag, value in (("--num", args.num), ("--sizes", args.sizes)):
        if args.items and value is not None:
            raise UserError(f"--items names the scenes, which {flag} contradicts; drop one of them")
    if args.save and not args.intervene:
        raise UserError("--save writes pictures of edited dreams; it needs --intervene")
    num = in_range("--num", DEFAULT_ITEMS if args.num is None else args.num, 1, 10**7)
    seed = in_range("--seed", args.seed, 0, MAX_SEED)
    dreams = in_range("--dreams", args.dreams, 1, MAX_DREAMS)
    check_world(args.world, args.sizes)
    items = None
    if args.items:
        from dreamrl.items import read_items

        items = read_items(args.items, args.world)
    if args.save:
        preflight.check_new_directory(args.save)
    check_model(args.model_dir)
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


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``generate`` may be given."""
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


def generate(args: argparse.Namespace) -> None:
    """Answer a prompt."""
    if args.image and args.world:
        raise UserError("--image and --world contradict each other; drop one of them")
    if args.options and not args.world:
        raise UserError("--options describes a scene of a world; say which with --world")
    seed = in_range("--seed", args.seed, 0, MAX_SEED)
    dreams = in_range("--dreams", args.dreams, 1, MAX_DREAMS)
    options = scene_options(args.world, args.options) if args.world else None
    for image in args.image or []:
        preflight.check_image(image)
    max_length = None if args.max_length is None else in_range("--max-length", args.max_length, 1, 4096)
    temperature, top_p = share("--temperature", args.temperature, 100), share("--top-p", args.top_p, 1)
    if args.output != "text" and not args.save:
        raise UserError(f"--output {args.output} needs --save DIR to write the picture to")
    if args.save:
        preflight.check_new_directory(args.save)
    check_model(args.model_dir)
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


def feedback_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``feedback`` may be given."""
    add = parser.add_argument
    add("model_dir", type=model_directory, metavar="MODEL", help=MODEL_HELP)
    add("file", type=Path, metavar="FILE.jsonl", help='{"prompt", "reward"} or {"prompt", "chosen", "rejected"} a line')
    add("--out", type=Path, required=True, metavar="DIR", help="where the new model is saved; must not exist yet")
    add("--epochs", type=int, default=3, metavar="N", help="passes over the training questions (default: 3)")
    add("--seed", type=int, default=0, metavar="N", help="seed of everything random (default: 0)")
    add("--json", action="store_true", help="print one JSON object")


def feedback(args: argparse.Namespace) -> None:
    """Learn from feedback."""
    from dreamrl.feedback.examples import MAX_EPOCHS, read_feedback_for

    epochs = in_range("--epochs", args.epochs, 1, MAX_EPOCHS)
    seed = in_range("--seed", args.seed, 0, MAX_SEED)
    if args.out.exists() or args.out.is_symlink():
        raise UserError(f"{args.out} exists; choose another --out")
    preflight.check_writable(args.out)
    records = read_feedback_for(args.model_dir, args.file)
    with quiet_stdout(args.json):
        from dreamrl.feedback.report import feedback_command, print_feedback

        result = feedback_command(args.model_dir, records, args.out, epochs, seed)
    if args.json:
        print_result(result, as_json=True)
    else:
        print_feedback(result)
