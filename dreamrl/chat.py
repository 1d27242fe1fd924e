"""``dreamrl chat``: questions about one scene after another, in the terminal or on a pipe.

A line is a question, or a command if it begins with a slash. Nothing that goes wrong ends the chat: it is one line, and
the next question can be asked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from dreamrl.chat_lines import graph_lines, number, remarks, split_picture, unquoted
from dreamrl.errors import UserError, nearest
from dreamrl.generate import RANGES, generate, save_result
from dreamrl.saving import Loaded, load_pretrained, named_world
from dreamrl.terminal import half_blocks, printable
from envs.questions import stream
from envs.scene import Scene, Split
from envs.world import World

MAX_SEED = 2**31 - 1
SCENE_COLUMNS = 32
"""Width in characters of the scene on a terminal."""
PROMPT = "> "


class Command(NamedTuple):
    """What a command takes, what it is for, and what it does with its argument."""

    argument: str
    help: str
    run: Callable[[str], None]


class Chat:
    """A conversation with a model: what is asked about, how it dreams, what it said last.

    Args:
        loaded: the model.
        world: that is asked about; None: the model's own.
        options: describe the first scene; None: drawn from the seed.
        num_dreams: for each question; None: what the model says.
        temperature: of the answers' words.
        seed: of everything random.
        console: where to write; stdout when left out.
    """

    def __init__(
        self,
        loaded: Loaded,
        world: str | None = None,
        options: dict[str, Any] | None = None,
        num_dreams: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        console: Console | None = None,
    ):
        """See the class."""
        self.trained, self.console = loaded, console or Console()
        self.loaded = loaded if world is None else replace(loaded, world=named_world(loaded, world))
        self.dreams = num_dreams or loaded.run.model.num_dream_sequences
        self.temperature, self.seed, self.watch = temperature, seed, False
        self.picture: Path | None = None
        self.result: dict[str, Any] | None = None
        self.asked: list[tuple[str, str]] = []
        self.ended = False
        self.scene = self._drawn() if options is None else self.loaded.world.scene(options)
        self.commands = {
            "dreams": Command("N", "how many dreams", self._dreams),
            "temperature": Command("T", "of the words; 0 takes the likeliest", self._temperature),
            "seed": Command("N", "another seed, another scene", self._seed),
            "world": Command("W", "ask about another world of the model", self._world),
            "scene": Command("JSON", "describe the scene; without JSON, show it", self._scene),
            "image": Command("PATH", "ask about a picture; a path in a question will do, too", self._image),
            "watch": Command("on|off", "draw the dreams while they come", self._watch),
            "why": Command("", "the dreams and the graph behind the last answer", self._why),
            "save": Command("DIR", "write the last answer's dreams as pictures", self._save),
            "history": Command("", "what was asked and answered", self._history),
            "help": Command("", "this list", self._help),
            "quit": Command("", "end the chat; so does Ctrl-D", self._quit),
        }

    def say(self, line: str) -> None:
        """Answer one line; whatever goes wrong is told and forgotten."""
        line = line.strip()
        try:
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._ask(line)
        except KeyboardInterrupt:
            self._print("stopped; /quit ends the chat")
        except (ValueError, OSError) as error:  # the user's mistakes, those of worlds included
            self._print(f"error: {' '.join(str(error).split())}")
        except Exception as error:  # a bug must not cost the conversation
            self._print(f"error: {type(error).__name__}: {' '.join(str(error).split())}")

    def _print(self, text: str) -> None:
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _command(self, line: str) -> None:
        name, _, argument = line[1:].partition(" ")
        if name not in self.commands:
            known = [f"/{command}" for command in self.commands]
            raise UserError(f'unknown command "/{name}"; {nearest("/" + name, known)}')
        self.commands[name].run(argument.strip())

    def _ask(self, line: str) -> None:
        words, picture = split_picture(line)
        if picture is not None:
            self._look_at(picture)
        result = generate(
            self.loaded,
            words,
            scene=self.scene if self.picture is None else None,
            images=self.picture,
            num_dreams=self.dreams,
            temperature=self.temperature,
            seed=self.seed,
            watch_dreams=self.watch,
        )
        self.result = result
        self.asked.append((result["question"], result["text"]))
        self._print(result["text"])
        self._print("  " + "; ".join(remarks(result)))

    def _drawn(self) -> Scene:
        """A held-out scene of the world, from the seed, as ``generate`` draws it."""
        world: World = self.loaded.world
        rng = stream(self.seed, 10)
        return world.sample_scene(rng, Split.TEST, int(rng.choice(world.sizes)))

    def _show(self) -> None:
        """What is asked about."""
        if self.picture is not None:
            self._print(f"asking about {self.picture}")
            return
        self._print(f"a scene of {self.loaded.world.about(self.scene).name}, seed {self.seed}")
        if self.console.is_interactive:
            self.console.print(half_blocks(self.scene.frame(self.scene.start), SCENE_COLUMNS))

    def _look_at(self, picture: Path) -> None:
        from dreamrl.pictures import as_picture

        as_picture(picture)
        self.picture = picture

    def _dreams(self, argument: str) -> None:
        low, high = RANGES["num_dreams"]
        self.dreams = int(number(argument, "/dreams", low, high, whole=True))
        self._print(f"{self.dreams} dreams")

    def _temperature(self, argument: str) -> None:
        self.temperature = number(argument, "/temperature", *RANGES["temperature"])
        self._print(f"temperature {self.temperature:g}")

    def _seed(self, argument: str) -> None:
        self.seed = int(number(argument, "/seed", 0, MAX_SEED, whole=True))
        self.picture, self.scene = None, self._drawn()
        self._show()

    def _world(self, argument: str) -> None:
        if not argument:
            raise UserError(f"/world needs a name; this is {self.loaded.world.name}")
        self.loaded = replace(self.trained, world=named_world(self.trained, argument))
        self.picture, self.scene = None, self._drawn()
        self._show()

    def _scene(self, argument: str) -> None:
        if argument:
            import json

            try:
                options = json.loads(argument)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"/scene: this is no valid JSON ({error})") from error
            if not isinstance(options, dict):
                raise UserError("/scene needs a JSON object")
            self.scene, self.picture = self.loaded.world.scene(options), None
        self._show()

    def _image(self, argument: str) -> None:
        if not argument:
            raise UserError("/image needs the path of a picture")
        self._look_at(Path(unquoted(argument)).expanduser())
        self._show()

    def _watch(self, argument: str) -> None:
        if argument not in ("", "on", "off"):
            raise UserError(f'/watch ("{argument}") must be on or off')
        self.watch = not self.watch if not argument else argument == "on"
        self._print(f"watching is {'on' if self.watch else 'off'}")

    def _why(self, argument: str) -> None:
        for line in graph_lines(self._last()):
            self._print(line)

    def _save(self, argument: str) -> None:
        from dreamrl.preflight import check_new_directory

        result = self._last()
        if not argument:
            raise UserError("/save needs a directory that does not exist yet")
        directory = Path(unquoted(argument)).expanduser()
        check_new_directory(directory)
        names = save_result(result, directory, self.loaded.world.patch_size)
        self._print(f"saved {', '.join(names)} in {directory}")

    def _history(self, argument: str) -> None:
        for index, (question, answer) in enumerate(self.asked, 1):
            self._print(f"{index}  {question}\n   {answer}")
        if not self.asked:
            self._print("nothing was asked yet")

    def _help(self, argument: str) -> None:
        names = {f"/{name} {command.argument}".strip(): command.help for name, command in self.commands.items()}
        width = max(map(len, names))
        for name, text in names.items():
            self._print(f"{name:<{width}}  {text}")

    def _quit(self, argument: str) -> None:
        self.ended = True

    def _last(self) -> dict[str, Any]:
        if self.result is None:
            raise UserError("nothing was answered yet; ask something first")
        return self.result


def _typed() -> Iterable[str]:
    """Lines as a person types them, with a history; Ctrl-C empties the line."""
    try:
        import readline  # noqa: F401 - gives input() its history and editing
    except ImportError:  # Windows
        pass
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            print("\n/quit or Ctrl-D ends the chat")
        except EOFError:
            print()
            return


def talk(chat: Chat, lines: Iterable[str]) -> None:
    """Say ``lines`` until they or the chat end."""
    for line in lines:
        chat.say(line)
        if chat.ended:
            return


def chat_command(model_dir: Path, world: str | None, **choices: Any) -> None:
    """What ``dreamrl chat`` does; ``choices`` of :class:`Chat`."""
    from dreamrl.process import settle

    settle()
    chat = Chat(load_pretrained(model_dir), world, **choices)
    if sys.stdin.isatty():
        chat._show()
        chat._print("ask something; /help lists the commands")
        talk(chat, _typed())
    else:
        talk(chat, sys.stdin)
