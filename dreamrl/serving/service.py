"""What the API does, in this process: from a checked request to a job of the engine and back.

The same methods are called by the web application when it runs by itself, as in tests, and by Ray Serve's replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from dreamrl import generate as answering
from dreamrl.imagine import Wording
from dreamrl.pictures import data_url
from dreamrl.saving import Loaded, named_world
from dreamrl.serving.engine import Engine, Job, as_refused
from dreamrl.serving.limits import BAD_REQUEST, LIMITS, Limits, Refused, check_options, check_patches, read_picture
from dreamrl.serving.requests import EditRequest, GenerateRequest, SceneRequest
from dreamrl.serving.results import describe, editor_of
from dreamrl.serving.together import Wish
from envs.mixture import Mixture
from envs.questions import stream
from envs.registry import WORLDS
from envs.scene import Scene, Split
from envs.world import World

SUGGESTIONS = 3
"""Questions that are suggested about a scene, besides the world's own."""
log = logging.getLogger("dreamrl.serving")


class Inbox:
    """What the engine's thread tells about a job, for the coroutine that made this to wait for."""

    def __init__(self):
        """Nothing is told yet."""
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def tell(self, kind: str, data: Any) -> None:
        """Called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the client with it
            self._loop.call_soon_threadsafe(self._told.put_nowait, (kind, data))

    async def get(self) -> tuple[str, Any]:
        """What is told next; an error is raised as :class:`Refused`."""
        kind, data = await self._told.get()
        if kind == "error":
            raise _refused(data) from data
        return kind, data


class Service:
    """A loaded model and its engine.

    Args:
        loaded: the model.
        name: what clients see.
        world: the one that is asked about unless a request names another; by default the model's first.
        limits: of requests.
    """

    def __init__(self, loaded: Loaded, name: str = "model", world: str | None = None, limits: Limits = LIMITS):
        """See the class."""
        self.loaded, self.name, self.limits = loaded, name, limits
        members = loaded.world.members if isinstance(loaded.world, Mixture) else [loaded.world]
        self.members = {member.name: member for member in members}
        if world is not None:
            first = named_world(loaded, world).name
            self.members = {first: self.members[first]} | self.members
        self.engine = Engine(loaded, limits)

    async def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """The result of a :class:`GenerateRequest`."""
        return await self._last(GenerateRequest(**request), watch=False)

    async def generate_all(self, requests: list[dict[str, Any]]) -> list[dict[str, Any] | Refused]:
        """The results of several requests, which dream together as far as the limits allow, or why there is none."""
        asked, inboxes = [GenerateRequest(**request) for request in requests], [Inbox() for _ in requests]
        jobs = await asyncio.to_thread(self._jobs, asked, inboxes, time.monotonic() + self.limits.seconds)
        return await asyncio.gather(*map(self._answer, jobs, inboxes))

    async def edit(self, request: dict[str, Any]) -> dict[str, Any]:
        """The results before and after the edits of an :class:`EditRequest`."""
        return await self._last(EditRequest(**request), watch=False)

    async def stream(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a :class:`GenerateRequest`, each with its ``event``: queued, start, steps, ..., answer."""
        async with contextlib.aclosing(self._events(GenerateRequest(**request), watch=True)) as events:
            async for kind, data in events:
                yield {"event": kind, **data}

    async def scene(self, request: dict[str, Any]) -> dict[str, Any]:
        """The picture of the scene that a :class:`SceneRequest` means, its options, and questions about it."""
        return await self._checked(self._show_scene, SceneRequest(**request))

    async def worlds(self) -> dict[str, Any]:
        """The worlds that can be asked about, and the model's limits."""
        return await self._checked(self._show_worlds)

    async def health(self) -> dict[str, Any]:
        """Whether the engine runs, and how busy it is."""
        if not self.engine.alive:
            raise Refused(503, "the engine has stopped")
        return {"status": "ok", "model": self.name, "open": self.engine.open, "batches": self.engine.batches[-20:]}

    async def _checked(self, work: Any, *arguments: Any) -> Any:
        """``work`` in a thread; whatever it raises, as :class:`Refused`."""
        try:
            return await asyncio.to_thread(work, *arguments)
        except Exception as error:  # worlds may be foreign code
            raise _refused(error) from error

    async def _last(self, request: GenerateRequest, watch: bool) -> dict[str, Any]:
        async with contextlib.aclosing(self._events(request, watch)) as events:
            return [data async for _, data in events][-1]

    async def _events(self, request: GenerateRequest, watch: bool) -> AsyncGenerator[tuple[str, Any], None]:
        """(kind, data) of one request until its answer; leaving early gives the request up."""
        inbox = Inbox()
        job = await self._checked(self._job, request, inbox.tell, watch, time.monotonic() + self.limits.seconds)
        self.engine.submit(job)
        try:
            yield "queued", {"open": self.engine.open}
            kind = "queued"
            while kind != "answer":
                kind, data = await inbox.get()
                yield kind, data
        finally:
            job.gone.set()

    async def _answer(self, job: Job | Refused, inbox: Inbox) -> dict[str, Any] | Refused:
        """The answer to a job that nobody watches."""
        if isinstance(job, Refused):
            return job
        try:
            self.engine.submit(job)
            return (await inbox.get())[1]
        except Refused as refused:
            return refused
        finally:
            job.gone.set()

    def _jobs(self, requests: list[GenerateRequest], inboxes: list[Inbox], deadline: float) -> list[Job | Refused]:
        """All ``requests`` as jobs, or why there is none."""
        jobs: list[Job | Refused] = []
        for request, inbox in zip(requests, inboxes, strict=True):
            try:
                jobs.append(self._job(request, inbox.tell, False, deadline))
            except Exception as error:  # worlds may be foreign code
                jobs.append(_refused(error))
        return jobs

    def _job(self, request: GenerateRequest, tell: Any, watch: bool, deadline: float) -> Job:
        """``request`` as a job; a mistake in it is a :class:`Refused` or a UserError."""
        if request.images and request.options is not None:
            raise Refused(BAD_REQUEST, "images and options contradict each other; give one of them")
        pictures = [read_picture(text, i, self.limits) for i, text in enumerate(request.images)]
        check_patches(pictures, self.loaded.world.patch_size, self.limits)
        loaded, scene = replace(self.loaded, world=self._world(request)), None
        if not pictures and (request.options is not None or request.size is not None):
            scene = self._scene(request)
        question, warnings = answering.question_about(loaded, request.prompt, scene, pictures or None, request.seed)
        dreams = request.dreams or min(self.loaded.run.model.num_dream_sequences, self.limits.dreams)
        heat = self.loaded.run.eval.temperature if request.dream_temperature is None else request.dream_temperature
        wording = Wording(
            temperature=request.temperature, top_p=request.top_p, max_length=request.max_length, seed=request.seed
        )
        return Job(
            wish=Wish(question=question, seed=request.seed, dreams=dreams, temperature=heat, wording=wording),
            tell=tell,
            warnings=warnings,
            output=request.output,
            pictures=request.pictures,
            watch=watch,
            edits=request.edits if isinstance(request, EditRequest) else (),
            deadline=deadline,
        )

    def _world(self, request: SceneRequest) -> World:
        """The world of a request, with the model's actions."""
        name = request.world or next(iter(self.members))
        if name not in self.members:
            raise Refused(BAD_REQUEST, f'world ("{name}") must be one of {", ".join(self.members)}')
        world = self.loaded.world
        return world.only(name) if isinstance(world, Mixture) else world

    def _scene(self, request: SceneRequest) -> Scene:
        """The described scene, or a held-out one, which without a size is that of :func:`dreamrl.generate.generate`."""
        world = self._world(request)
        check_options(request.options, self.limits)
        if request.options is not None:
            named = {"world": world.name} if isinstance(world, Mixture) else {}
            return world.scene(named | request.options)
        rng = stream(request.seed, 10)
        size = int(rng.choice(world.sizes))
        if request.size is not None:
            if isinstance(world, Mixture):
                raise Refused(BAD_REQUEST, "size is drawn by the seed for a model of several worlds; leave it out")
            world.check_sizes([request.size])
            size = request.size
        return world.sample_scene(rng, Split.TEST, size)

    def _show_scene(self, request: SceneRequest) -> dict[str, Any]:
        scene, world = self._scene(request), self._world(request)
        rng, length = stream(request.seed, 12), self.loaded.run.model.dream_length
        texts = list(world.about(scene).plan_texts[:1])
        for number in range(SUGGESTIONS * 4):
            text = world.draw(scene, bool(number % 2), length, rng).text
            if text not in texts and world.interpret(text, scene) is not None:
                texts.append(text)
            if len(texts) > SUGGESTIONS:
                break
        options = describe(scene)
        return {
            "world": world.about(scene).name,
            "grid": list(scene.grid),
            "patch_size": world.patch_size,
            "picture": data_url(scene.frame(scene.start)),
            "options": None if options is None else {k: v for k, v in options.items() if k != "world"},
            "questions": texts,
        }

    def _show_worlds(self) -> dict[str, Any]:
        worlds = [
            {
                "name": name,
                "about": WORLDS[name][1] if name in WORLDS else world.family,
                "family": world.family,
                "actions": list(world.actions),
                "sizes": list(world.sizes),
                "smallest": world.min_size,
                "largest": world.max_size,
                "editor": editor_of(world),
                "options": options_help(world),
            }
            for name, world in self.members.items()
        ]
        run = self.loaded.run
        names = ("dreams", "prompt_chars", "picture_side", "picture_patches", "body_bytes", "edits", "seconds")
        return {
            "model": self.name,
            "worlds": worlds,
            "patch_size": self.loaded.world.patch_size,
            "dreams": min(run.model.num_dream_sequences, self.limits.dreams),
            "dream_temperature": run.eval.temperature,
            "limits": {name: getattr(self.limits, name) for name in names},
        }


def options_help(world: World) -> str:
    """What a world's ``scene`` says of its options."""
    text = inspect.getdoc(type(world).scene) or ""
    found = re.search(r"Options:\s*(.*)", text, re.DOTALL)
    return " ".join(found[1].replace("``", "").split()) if found else ""


def _refused(error: Exception) -> Refused:
    refused = as_refused(error)
    if refused.status == 500:
        log.error("a request failed", exc_info=error)
    return refused
