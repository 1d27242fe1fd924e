"""Answer one prompt and show the thinking: dreams as pictures, the dream graph, rewards, confidence."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreamrl.errors import UserError
from dreamrl.graph_view import graph_data
from dreamrl.imagine import Answers, Imagined, Wording, answer, imagine
from dreamrl.notebook import Result
from dreamrl.pictures import as_pictures
from dreamrl.saving import Loaded, load_pretrained, named_world
from dreamrl.types import Dream, Triplet
from envs.questions import stream
from envs.reasoning_batch import Scores
from envs.world import Outcome, PictureScene, Question, QuestionKind, Scene, Split, Verdict

UNFAMILIAR_ERROR = 0.08
"""Mean absolute reconstruction error (of 1) above which a picture is nothing that the codec was trained on."""

OUTPUT_MODES = ("text", "image", "both")
RANGES = {"num_dreams": (1, 1024), "max_length": (1, 4096), "temperature": (0, 100), "top_p": (0, 1)}


def generate(
    loaded: Loaded,
    prompt: str = "",
    *,
    images: Any = None,
    scene: Scene | dict[str, Any] | None = None,
    num_dreams: int | None = None,
    output_mode: str = "text",
    max_length: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    watch_dreams: bool = False,
) -> dict[str, Any]:
    """Answer ``prompt`` about a scene (checked by its simulator) or about bare pictures (nothing is checked).

    With neither, a test board of the model's own world is drawn from ``seed``. Without a prompt, the world's own
    question is asked.

    Args:
        loaded: the model.
        prompt: the question.
        images: one or several pictures (PIL, numpy, tensor or path). The first is what is dreamed about; further
            ones need a vision backbone.
        scene: a scene of the model's world, or what describes one, as ``{"desc": ["SFF", "FHF", "FFG"]}``; not
            together with ``images``.
        num_dreams: by default what the model's config says.
        output_mode: "text", "image" (the picture that the answer ends with) or "both".
        max_length: longest answer, in tokens.
        temperature: of the answer's words; 0 takes the most probable one each time.
        top_p: nucleus of the words that are sampled.
        seed: of everything sampled.
        watch_dreams: draw the dreams in the terminal as they come.

    Returns:
        ``output`` (text, PIL image, or a dict with both), ``text``, ``image``, ``dreams`` (list of
        :class:`dreamrl.types.Dream`), ``graph_data``, ``rewards`` (None without a simulator), ``confidence`` in
        [0, 1], ``verdict`` (None where nothing can be verified), ``question``, ``focus`` (index of the dream that was
        read, or None), ``warnings``.
    """
    if output_mode not in OUTPUT_MODES:
        raise UserError(f'output_mode ("{output_mode}") must be one of {", ".join(OUTPUT_MODES)}')
    given = {"num_dreams": num_dreams, "max_length": max_length, "temperature": temperature, "top_p": top_p}
    for name, value in given.items():
        low, high = RANGES[name]
        if value is not None and not low <= value <= high:
            raise UserError(f"{name} ({value}) must be between {low} and {high}")
    count = num_dreams or loaded.run.model.num_dream_sequences
    about = loaded.world.scene(scene) if isinstance(scene, dict) else scene
    question, warnings = question_about(loaded, prompt, about, images, seed)
    checked = not isinstance(question.scene, PictureScene)
    wording = Wording(temperature=temperature, top_p=top_p, max_length=max_length, seed=seed)
    with contextlib.ExitStack() as stack:
        if watch_dreams:
            from dreamrl.terminal import DreamWatcher

            watcher = stack.enter_context(DreamWatcher())

            def show(imagined: Imagined) -> None:
                watcher.update(to_dreams(loaded, imagined, 0, None, checked))

            imagined = imagine(loaded, [question], count, seed, loaded.run.eval.temperature, on_step=show)
        else:
            imagined = imagine(loaded, [question], count, seed, loaded.run.eval.temperature)
        answers = answer(loaded, imagined, count, wording)
        shown = to_dreams(loaded, imagined, 0, answers, checked)
        if watch_dreams:
            watcher.update(shown)
    focus, text = int(answers.focus[0]), answers.texts[0]
    image = answer_picture(loaded, question, answers) if output_mode != "text" else None
    verdict = None
    if checked and loaded.world.interpret(question.text, question.scene) is not None:
        verdict = loaded.world.verify(question, text)
    return Result(
        {
            "output": {"text": text, "image": image, "both": {"text": text, "image": image}}[output_mode],
            "text": text,
            "image": image,
            "dreams": shown,
            "graph_data": graph_of(loaded, imagined, answers),
            "rewards": rewards_of(imagined) if checked else None,
            "confidence": 0.0 if warnings else round(float(answers.confidence[0]), 4),
            "verdict": verdict,
            "question": question.text,
            "focus": focus if focus < count else None,
            "warnings": warnings,
        }
    )


def visualize(loaded: Loaded, prompt: str, save: Path | None, **options: Any) -> Image.Image:
    """Answer, and draw the dreams as filmstrips above the graph in which they were read."""
    from dreamrl.filmstrip import filmstrip
    from dreamrl.graph_view import draw_graph

    result = generate(loaded, prompt, **options)
    words = (result["question"], result["text"], verdict_text(result["verdict"]))
    strip = filmstrip(result["dreams"], *words, patch_size=loaded.world.patch_size)
    graph = draw_graph(result["graph_data"])
    sheet = Image.new("RGB", (max(strip.width, graph.width), strip.height + graph.height), "white")
    sheet.paste(strip, (0, 0))
    sheet.paste(graph, (0, strip.height))
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(save, format="PNG")
    return sheet


def answer_picture(loaded: Loaded, question: Question, answers: Answers) -> Image.Image:
    """The answer as a picture."""
    rows, columns = question.scene.grid
    return Image.fromarray(loaded.model.codec.decode(answers.pictures[0, : rows * columns], (rows, columns)))


def graph_of(loaded: Loaded, imagined: Imagined, answers: Answers) -> dict[str, Any]:
    """The graph in which the dreams were read, see :func:`dreamrl.graph_view.graph_data`."""
    batch = imagined.batch
    return graph_data(answers.reading.edges, batch.actions[0], batch.beliefs[0], batch.lengths[0], loaded.world.actions)


def question_about(
    loaded: Loaded, prompt: str, scene: Scene | None, images: Any, seed: int
) -> tuple[Question, list[str]]:
    """What is asked, and why its answer is not to be trusted, if so."""
    warnings, extra = [], ()
    rng = stream(seed, 10)
    if images is not None:
        if scene is not None:
            raise UserError("images and scene contradict each other; give one of them")
        first, *extra = as_pictures(images)
        scene = PictureScene(first, loaded.world.patch_size)
        codec = loaded.model.codec
        error = np.abs(codec.decode(codec.encode(first), scene.grid).astype(float) - first).mean() / 255
        if error > UNFAMILIAR_ERROR:
            warnings.append(f"the picture is unlike any that this model was trained on (error {error:.2f})")
        if extra and loaded.run.model.vision_backbone == "none":
            raise UserError(
                f"{len(extra) + 1} images were given, but this model reads one; train with model.vision_backbone=lite"
            )
    elif scene is None:
        scene = loaded.world.sample_scene(rng, Split.TEST, int(rng.choice(loaded.world.sizes)))
    prompt = prompt or loaded.world.draw(scene, False, loaded.run.model.dream_length, rng).text
    question = loaded.world.interpret(prompt, scene)
    if question is None:
        warnings.append("the prompt asks nothing that this model was trained on")
        question = Question(kind=QuestionKind.PLAN, text=prompt, scene=scene)
    try:
        loaded.text.encode(prompt, loaded.run.model.max_prompt_tokens)
    except ValueError as error:
        raise UserError(f"prompt: {error}; shorten it") from error
    return replace(question, pictures=tuple(extra)), warnings


def to_dreams(loaded: Loaded, imagined: Imagined, index: int, answers: Answers | None, checked: bool) -> list[Dream]:
    """The dreams of question ``index`` as pictures, beside what the simulator shows for the same actions."""
    batch, codec = imagined.batch, loaded.model.codec
    scene = batch.questions[index].scene
    size = scene.grid[0] * scene.grid[1]
    out = []
    for n in range(batch.dreams):
        steps = int(batch.lengths[index, n])
        pictures = [
            codec.decode(batch.frames[index, n, t, :size].astype(np.int64), scene.grid) for t in range(steps + 1)
        ]
        triplets = tuple(
            Triplet(
                what=pictures[t],
                action=loaded.world.actions[batch.actions[index, n, t]],
                result=pictures[t + 1],
                belief=Outcome(int(batch.beliefs[index, n, t])).name.lower(),
                true_result=scene.frame(batch.states[index][n][t + 1]) if checked else None,
                faithful=batch.scores[index][n].exact[t] if checked else None,
                experts=tuple(round(float(w), 4) for w in imagined.experts[index, n, t]),
            )
            for t in range(steps)
        )
        value = float(imagined.values[index, n])
        out.append(Dream(triplets=triplets, value=value, focus=answers is not None and n == int(answers.focus[index])))
    return out


def reward_parts(scores: Scores) -> dict[str, float]:
    """Reward components of one dream, unweighted, to four digits."""
    return {name: round(value, 4) for name, value in scores.parts().items()}


def rewards_of(imagined: Imagined) -> list[dict[str, float]]:
    """Reward components of each dream of the first question, but progress."""
    return [{k: v for k, v in reward_parts(s).items() if k != "progress"} for s in imagined.batch.scores[0]]


def verdict_text(verdict: Verdict | None) -> str | None:
    """A verdict in words."""
    if verdict is None:
        return None
    if verdict.exact:
        return "exact: the simulator confirms it"
    if not verdict.valid and verdict.progress == 0:
        return "not a plan that can be followed, so it counts as wrong"
    if verdict.success:
        return "works, but is not the shortest"
    if verdict.progress == 0:
        return "wrong: the simulator says otherwise"
    return f"wrong (correct leading steps: {verdict.progress:.0%})"


def save_result(result: dict[str, Any], directory: Path, patch_size: int) -> list[str]:
    """Write the dreams as a filmstrip and a GIF, their graph, and the answer if it is a picture; returns the names."""
    from dreamrl.filmstrip import animate, filmstrip, save_png
    from dreamrl.graph_view import draw_graph

    directory.mkdir(parents=True, exist_ok=True)
    words = (result["question"], result["text"], verdict_text(result["verdict"]))
    save_png(filmstrip(result["dreams"], *words, patch_size=patch_size), directory / "dreams.png")
    animate(result["dreams"], *words, directory / "dreams.gif", patch_size=patch_size)
    names = ["dreams.png", "dreams.gif"]
    if result["image"] is not None:
        result["image"].save(directory / "answer.png")
        names.append("answer.png")
    draw_graph(result["graph_data"]).save(directory / "graph.png")
    return [*names, "graph.png"]


def generate_command(
    model_dir: Path,
    prompt: str,
    world: str | None,
    options: dict | None,
    images: list[Path] | None,
    save: Path | None,
    **choices: Any,
) -> dict[str, Any]:
    """What ``dreamrl generate`` prints: plain JSON values, pictures only as files; ``choices`` of :func:`generate`."""
    loaded = load_pretrained(model_dir)
    scene = None
    if world is not None and options is not None:
        scene = named_world(loaded, world).scene(options)
    result = generate(loaded, prompt, scene=scene, images=images, **choices)
    hidden = ("dreams", "verdict", "graph_data", "output", "text", "image")
    plain = {"output": result["text"]} | {k: v for k, v in result.items() if k not in hidden}
    plain["verdict"] = verdict_text(result["verdict"])
    plain["dreams"] = [
        [
            {"action": t.action, "belief": t.belief, "faithful": t.faithful, "experts": list(t.experts)}
            for t in dream.triplets
        ]
        for dream in result["dreams"]
    ]
    plain["graph_data"] = {k: result["graph_data"][k] for k in ("num_nodes", "num_edges")}
    if save is not None:
        plain["saved"] = [str(save / name) for name in save_result(result, save, loaded.world.patch_size)]
    return plain
