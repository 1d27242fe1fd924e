"""Answer one prompt and show the thinking: dreams as pictures, the dream graph, rewards, confidence."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreamrl.errors import UserError
from dreamrl.imagine import Answers, Imagined, answer, imagine
from dreamrl.nn.graph import EDGE_TYPES, build_graph
from dreamrl.saving import Loaded, load_pretrained
from dreamrl.types import Dream, Triplet
from envs.questions import stream
from envs.registry import make_world
from envs.world import Outcome, PictureScene, Question, QuestionKind, Scene, Split, Verdict

UNFAMILIAR_ERROR = 0.08
"""Mean absolute reconstruction error (of 1) above which a picture is nothing that the codec was trained on."""


def generate(
    loaded: Loaded,
    prompt: str,
    scene: Scene | None = None,
    picture: np.ndarray | None = None,
    dreams: int | None = None,
    seed: int = 0,
    watch: bool = False,
) -> dict[str, Any]:
    """Answer ``prompt`` about a scene (checked by its simulator) or a bare picture (nothing is checked).

    With neither, a test board of the model's own world is drawn from ``seed``.

    Returns:
        ``output`` text, ``dreams`` (list of :class:`dreamrl.types.Dream`), ``graph_data``, ``rewards`` (None
        without a simulator), ``confidence`` in [0, 1], ``verdict`` (None where nothing can be verified),
        ``question``, ``focus`` (index of the dream that was read, or None), ``warnings``.
    """
    count = dreams or loaded.run.model.num_dream_sequences
    question, warnings = _question(loaded, prompt, scene, picture, seed)
    checked = not isinstance(question.scene, PictureScene)
    with contextlib.ExitStack() as stack:
        if watch:
            from dreamrl.terminal import DreamWatcher

            watcher = stack.enter_context(DreamWatcher())

            def show(imagined: Imagined) -> None:
                watcher.update(to_dreams(loaded, imagined, 0, None, checked))

            imagined = imagine(loaded, [question], count, seed, loaded.run.eval.temperature, on_step=show)
        else:
            imagined = imagine(loaded, [question], count, seed, loaded.run.eval.temperature)
        answers = answer(loaded, imagined, count)
        shown = to_dreams(loaded, imagined, 0, answers, checked)
        if watch:
            watcher.update(shown)
    focus = int(answers.focus[0])
    text = answers.texts[0]
    verdict = None
    if checked and loaded.world.interpret(prompt, question.scene) is not None:
        verdict = loaded.world.verify(question, text)
    return {
        "output": text,
        "dreams": shown,
        "graph_data": graph_data(imagined, loaded.world.actions),
        "rewards": _rewards(imagined) if checked else None,
        "confidence": 0.0 if warnings else round(float(answers.confidence[0]), 4),
        "verdict": verdict,
        "question": prompt,
        "focus": focus if focus < count else None,
        "warnings": warnings,
    }


def _question(
    loaded: Loaded, prompt: str, scene: Scene | None, picture: np.ndarray | None, seed: int
) -> tuple[Question, list[str]]:
    warnings = []
    if picture is not None:
        scene = PictureScene(picture, loaded.world.patch_size)
        codec = loaded.model.codec
        seen = codec.decode(codec.encode(picture), scene.grid)
        error = np.abs(seen.astype(float) - picture).mean() / 255
        if error > UNFAMILIAR_ERROR:
            warnings.append(f"the picture is unlike any that this model was trained on (error {error:.2f})")
    elif scene is None:
        rng = stream(seed, 10)
        scene = loaded.world.sample_scene(rng, Split.TEST, int(rng.choice(loaded.run.world.sizes)))
    question = loaded.world.interpret(prompt, scene)
    if question is None:
        warnings.append("the prompt asks nothing that this model was trained on")
        question = Question(kind=QuestionKind.PLAN, text=prompt, scene=scene)
    try:
        loaded.text.encode(prompt, loaded.run.model.max_prompt_tokens)
    except ValueError as error:
        raise UserError(f"prompt: {error}; shorten it") from error
    return question, warnings


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


def graph_data(imagined: Imagined, actions: Sequence[str]) -> dict[str, Any]:
    """The dream graph of the first question: nodes are triplets, edges have a type."""
    import torch

    batch = imagined.batch
    lengths = torch.from_numpy(batch.lengths[:1].astype(np.int64))
    graph = build_graph(lengths, batch.length)
    places = [(int(i) // batch.length, int(i) % batch.length) for i in graph.node]
    nodes = [
        {
            "dream": n,
            "step": t,
            "action": actions[batch.actions[0, n, t]],
            "belief": Outcome(int(batch.beliefs[0, n, t])).name.lower(),
        }
        for n, t in places
    ]
    edges = [
        {"source": int(a), "target": int(b), "type": EDGE_TYPES[int(kind)]}
        for a, b, kind in zip(*graph.edge_index.tolist(), graph.edge_type.tolist(), strict=True)
    ]
    return {"num_nodes": len(nodes), "num_edges": len(edges), "nodes": nodes, "edges": edges}


def _rewards(imagined: Imagined) -> list[dict[str, float]]:
    """Reward components of each dream of the first question."""
    return [
        {
            "faithfulness": round(s.mean_faithfulness(), 4),
            "coherence": round(float(np.mean(s.coherent)), 4) if s.coherent else 0.0,
            "correctness": s.correctness,
            "creativity": round(s.creativity, 4),
        }
        for s in imagined.batch.scores[0]
    ]


def read_picture(path: Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3); a :class:`UserError` if it is none."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"--image {path} cannot be read as a picture: {error}") from error


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
    return f"wrong (correct leading steps: {verdict.progress:.0%})"


def save_result(result: dict[str, Any], directory: Path, patch_size: int) -> list[str]:
    """Write the dreams as a filmstrip PNG and a GIF; returns the file names."""
    from dreamrl.filmstrip import animate, filmstrip, save_png

    directory.mkdir(parents=True, exist_ok=True)
    words = (result["question"], result["output"], verdict_text(result["verdict"]))
    save_png(filmstrip(result["dreams"], *words, patch_size=patch_size), directory / "dreams.png")
    animate(result["dreams"], *words, directory / "dreams.gif", patch_size=patch_size)
    return ["dreams.png", "dreams.gif"]


def generate_command(
    model_dir: Path,
    prompt: str,
    world: str | None,
    options: dict | None,
    image: Path | None,
    dreams: int,
    seed: int,
    save: Path | None,
    watch: bool,
) -> dict[str, Any]:
    """What ``dreamrl generate`` prints: plain JSON values, pictures only as files."""
    loaded = load_pretrained(model_dir)
    scene = None
    if world is not None and options is not None:
        scene = make_world(world, patch_size=loaded.run.model.patch_size).scene(options)
    picture = read_picture(image) if image is not None else None
    result = generate(loaded, prompt, scene, picture, dreams, seed, watch)
    plain = {k: v for k, v in result.items() if k not in ("dreams", "verdict", "graph_data")}
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
