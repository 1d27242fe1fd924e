"""The JSON that clients get, for the API's documentation; a test holds what is sent to these models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Shown(BaseModel):
    """What all have in common: no field that is not documented."""

    model_config = ConfigDict(extra="forbid")


class Failure(Shown):
    """Why a request was not answered."""

    error: str = Field(examples=["dreams: Input should be less than or equal to 32"])


class Step(Shown):
    """One dreamed step."""

    dream: int = Field(description="from 0")
    step: int = Field(description="from 0")
    action: str
    belief: Literal["continue", "success", "failure", "stop"] = Field(
        description="what the dream believes of the result"
    )
    faithful: bool | None = Field(description="whether the simulator shows the same; null without a simulator")
    coherence: float | None = Field(description="how probable the action is between the two pictures")
    experts: list[float] = Field(description="weight of every expert")
    picture: str | None = Field(None, description="the dreamed picture, as a data URL")
    true_picture: str | None = Field(None, description="the simulator's")


class DreamShown(Shown):
    """One dream."""

    steps: list[Step]
    value: float = Field(description="return that the model expected at its start")
    focus: bool = Field(description="whether the answer was read from it")


class VerdictShown(Shown):
    """What the simulator says of the answer."""

    exact: bool
    success: bool
    valid: bool
    progress: float
    words: str


class Rewards(Shown):
    """What a dream earned, each from 0 to 1."""

    faithfulness: float
    coherence: float
    correctness: float
    creativity: float


class Node(Shown):
    """A step in the dream graph."""

    dream: int
    step: int
    action: str
    belief: str


class GraphEdge(Shown):
    """How much the target took in of the source while the dreams were read."""

    source: int
    target: int
    type: str
    weight: float


class GraphShown(Shown):
    """The dream graph."""

    num_nodes: int
    num_edges: int
    nodes: list[Node]
    edges: list[GraphEdge]


class ResultShown(Shown):
    """An answer and all that led to it."""

    text: str
    question: str
    confidence: float = Field(description="probability that the answer is exact")
    verdict: VerdictShown | None = Field(description="null where nothing can be checked")
    focus: int | None = Field(description="the dream that was read")
    warnings: list[str]
    dreams: list[DreamShown]
    rewards: list[Rewards] | None
    graph: GraphShown
    image: str | None = Field(description="the answer as a picture, if asked for")
    picture: str | None = Field(None, description="what the dreams start from")
    batch: int | None = Field(None, description="requests that dreamed together")
    seconds: float | None = Field(None, description="from the batch's first step to its answers")


class EditShown(Shown):
    """The answers before and after an edit."""

    before: ResultShown
    after: ResultShown
    dreams_say: list[str] = Field(description="the answers that the edited dreams support; empty if that is not known")
    follows: bool | None = Field(description="whether the new answer is one of them")
    edited: list[int] = Field(description="the dreams that were changed: the edited one and its twins")
    batch: int
    seconds: float


class SceneShown(Shown):
    """A scene."""

    world: str
    grid: list[int] = Field(description="rows and columns, in patches")
    patch_size: int
    picture: str
    options: dict[str, Any] | None = Field(description="what describes it, if its world has a short form")
    questions: list[str] = Field(description="that can be asked")


class WorldShown(Shown):
    """A world."""

    name: str
    about: str
    family: str
    actions: list[str]
    sizes: list[int]
    smallest: int
    largest: int
    editor: Literal["board", "objects"] | None
    options: str = Field(description="how scenes are described")


class WorldsShown(Shown):
    """What the model can be asked about."""

    model: str
    worlds: list[WorldShown]
    patch_size: int
    dreams: int
    dream_temperature: float
    limits: dict[str, float]


class HealthShown(Shown):
    """One replica's state."""

    status: Literal["ok"]
    model: str
    open: int = Field(description="requests that wait or are in work")
    batches: list[int] = Field(description="sizes of the latest batches")
