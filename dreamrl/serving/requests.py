"""The JSON that clients send, field by field: names, types and ranges are checked before anything else sees it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dreamrl.serving.limits import LIMITS

MAX_SEED = 2**31 - 1


class SceneRequest(BaseModel):
    """Which scene: described by ``options``, or drawn from the seed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    world: str | None = Field(None, max_length=100, description="a world of /v1/worlds; by default the first")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of everything random: scene, question, dreams, words")
    size: int | None = Field(None, ge=1, le=64, description="size of the drawn scene; by default drawn, too")
    options: dict[str, Any] | None = Field(
        None, description='describes the scene, such as {"desc": ["SFF", "FHF", "FFG"]}', examples=[None]
    )


class GenerateRequest(SceneRequest):
    """A question, about a scene or about pictures."""

    prompt: str = Field("", max_length=LIMITS.prompt_chars, description="the question; by default the world's own")
    images: list[str] = Field(
        [], max_length=LIMITS.pictures, description="pictures as base64 or data URLs, instead of a scene"
    )
    dreams: int | None = Field(None, ge=1, le=LIMITS.dreams, description="how many; by default what the model says")
    temperature: float = Field(0.0, ge=0, le=LIMITS.temperature, description="of the answer's words; 0 is greedy")
    top_p: float = Field(1.0, ge=0, le=1, description="nucleus of the words that are sampled")
    dream_temperature: float | None = Field(
        None, ge=0, le=LIMITS.temperature, description="of the dreams' actions; the first dream is always greedy"
    )
    max_length: int | None = Field(None, ge=1, le=LIMITS.answer_tokens, description="longest answer, in tokens")
    output: Literal["text", "image", "both"] = Field("text", description='"image" and "both" draw the answer')
    pictures: bool = Field(False, description="whether dreams come with their pictures, as data URLs")


class Edit(BaseModel):
    """One change to one dream that was imagined.

    ``label``: another action is claimed, the pictures stay. ``replay``: the action is taken in the simulator, and the
    dream shows what follows. ``belief``: the last step believes something else.
    """

    model_config = ConfigDict(extra="forbid")

    dream: int = Field(ge=0, lt=LIMITS.dreams, description="which dream, from 0")
    step: int = Field(0, ge=0, lt=4096, description="which step, from 0; for belief always the last")
    mode: Literal["label", "replay", "belief"] = "label"
    action: str | None = Field(None, max_length=100, description="the new action, for label and replay")
    belief: Literal["continue", "success", "failure", "stop"] | None = Field(None, description="for belief")


class EditRequest(GenerateRequest):
    """The request whose dreams are edited, and the edits, one after the other."""

    edits: list[Edit] = Field(min_length=1, max_length=LIMITS.edits)
