"""``dreamrl serve`` and ``chat``: a trained model to talk to, over HTTP or in the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamrl.commands.checks import (
    MAX_DREAMS,
    MAX_SEED,
    MODEL_HELP,
    check_model,
    check_world,
    in_range,
    scene_options,
    share,
)
from dreamrl.errors import UserError
from dreamrl.shipped import model_directory, shipped

DEFAULT_PORT = 8000
DEFAULT_REPLICAS = 2
MAX_REPLICAS = 64


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``serve`` may be given."""
    add = parser.add_argument
    add("model_dir", type=model_directory, metavar="MODEL", help=MODEL_HELP)
    add("--world", metavar="W", help="the world that is asked about (default: the model's first)")
    add("--host", default="127.0.0.1", metavar="H", help="where to listen; others need a token (default: 127.0.0.1)")
    add("--port", type=int, default=DEFAULT_PORT, metavar="P", help=f"0 takes a free one (default: {DEFAULT_PORT})")
    add(
        "--replicas",
        type=int,
        default=DEFAULT_REPLICAS,
        metavar="N",
        help=f"processes that hold the model; two survive the loss of one (default: {DEFAULT_REPLICAS})",
    )
    add("--token-file", type=Path, metavar="FILE", help="token that clients must send (default: DREAMRL_TOKEN)")


def serve(args: argparse.Namespace) -> None:
    """Start the server."""
    from dreamrl.serving.launch import free_port, read_token, serve_command

    port = in_range("--port", args.port, 0, 65535)
    replicas = in_range("--replicas", args.replicas, 1, MAX_REPLICAS)
    if args.world:
        check_world(args.world)
    token = read_token(args.host, args.token_file)
    check_model(args.model_dir)
    free_port(args.host, port)
    serve_command(args.model_dir, _name(args.model_dir), args.world, args.host, port, replicas, token)


def _name(directory: Path) -> str:
    """What people call the model: a shipped one's name, else its path."""
    return directory.name if directory.name in shipped() else str(directory)


def chat_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``chat`` may be given."""
    add = parser.add_argument
    add("model_dir", type=model_directory, metavar="MODEL", help=MODEL_HELP)
    add("--world", metavar="W", help="the world that is asked about (default: the model's first)")
    add("--options", metavar="JSON", help='the first scene, such as \'{"desc": ["SFF", "FHF", "FFG"]}\'')
    add("--dreams", type=int, metavar="N", help="dreams for each question (default: what the model says)")
    add("--temperature", type=float, default=0.0, metavar="T", help="of the answers' words; 0 is greedy (default: 0)")
    add("--seed", type=int, default=0, metavar="N", help="seed of scene, dreams and words (default: 0)")


def chat(args: argparse.Namespace) -> None:
    """Start the chat."""
    if args.options and not args.world:
        raise UserError("--options describes a scene of a world; say which with --world")
    dreams = None if args.dreams is None else in_range("--dreams", args.dreams, 1, MAX_DREAMS)
    temperature, seed = share("--temperature", args.temperature, 100), in_range("--seed", args.seed, 0, MAX_SEED)
    options = scene_options(args.world, args.options) if args.world else None
    check_model(args.model_dir)

    from dreamrl.chat import chat_command

    chat_command(
        args.model_dir,
        args.world,
        options=options,
        num_dreams=dreams,
        temperature=temperature,
        seed=seed,
    )
