"""Every setting of a run: frozen dataclasses, checked when they are made.

The model's own are in ``dreamrl.dreaming_config``. Each section is a dataclass; a line under each field gives
its unit and effect. ``dreamrl.settings`` reads presets, files and ``key=value`` overrides into them. A wrong value
raises a ValueError that names the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dreamrl.dreaming_config import ConfigError, DreamingConfig, in_range, one_of, require

__all__ = [
    "ConfigError",
    "CurriculumConfig",
    "DreamingConfig",
    "EvalConfig",
    "PPOConfig",
    "PretrainConfig",
    "RewardConfig",
    "RunConfig",
    "WorldConfig",
]

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Which world, and which scenes of it are trained and evaluated on."""

    name: str = "frozen_lake"
    """A built-in world (`dreamrl worlds` lists them) or package.module:Name of your own."""
    worlds: tuple[str, ...] = ()
    """Several worlds at once, instead of name: NAME[@LOW-HIGH][*WEIGHT] each, such as frozen_lake@3-6*2."""
    sizes: tuple[int, ...] = ()
    """Sizes of the sampled scenes, drawn uniformly (of FrozenLake: cells a side); empty: the world's own choice."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Supervised training on random play."""

    codec_steps: int = 300
    """Updates of the image codec before everything else (it is frozen afterwards)."""
    steps: int = 360
    """Updates of the world model, inverse dynamics, graph reasoner and decoder."""
    scenes_per_step: int = 32
    """Scenes per update, over all workers; each gives num_dream_sequences rollouts of random play."""
    lr: float = 3e-3
    """Peak learning rate of AdamW, cosine decay after a short warm-up."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    grad_clip: float = 1.0
    """Largest gradient norm."""
    predict_share: float = 0.3
    """Share of questions that ask what given moves lead to; the rest ask for a path."""
    min_workers: int = 0
    """Fewest workers that go on when no more are to be had, as on a cluster that shrinks; 0: always num_workers."""
    num_workers: int = 2
    """Ray Train workers; the scenes of an update are split among them."""
    checkpoint_every: int = 100
    """Updates between checkpoints."""

    def __post_init__(self):
        """Reject values outside their range."""
        in_range(
            "pretrain", self, codec_steps=(1, 1e7), steps=(0, 1e8), scenes_per_step=(1, 1e5), lr=(1e-8, 1),
            weight_decay=(0, 1), grad_clip=(1e-3, 1e3), predict_share=(0, 1),
            num_workers=(1, 1024), min_workers=(0, 1024), checkpoint_every=(1, 1e7),
        )  # fmt: skip
        rule = f"be <= pretrain.num_workers ({self.num_workers})"
        require(self.min_workers <= self.num_workers, "pretrain.min_workers", self.min_workers, rule)
        require(
            self.scenes_per_step % self.num_workers == 0,
            "pretrain.scenes_per_step",
            self.scenes_per_step,
            f"be a multiple of pretrain.num_workers ({self.num_workers})",
        )


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Weights of the reward components; each component is bounded by 1 in absolute value."""

    faithfulness: float = 0.5
    """Loss per dream for results that the simulator does not confirm."""
    coherence: float = 0.1
    """Loss per dream for results that do not follow from the claimed action."""
    correctness: float = 1.0
    """Pay of the answer, and of each dream whose own plan the verifier accepts."""
    creativity: float = 0.05
    """Pay for differing from the other faithful dreams."""
    progress: float = 1.0
    """Scale of the shaping."""
    shaping: str = "potential"
    """potential (gamma * Phi(s') - Phi(s)) or naive (+1 closer, -0.2 farther; to show what it does)."""

    def __post_init__(self):
        """Reject values outside their range."""
        in_range(
            "reward", self, faithfulness=(0, 100), coherence=(0, 100), correctness=(0, 100), creativity=(0, 100),
            progress=(0, 100),
        )  # fmt: skip
        one_of("reward", self, shaping=("potential", "naive"))


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """PPO (Schulman et al. 2017) in dreams, on RLlib."""

    iterations: int = 26
    """Updates; each samples questions_per_iteration new questions."""
    questions_per_iteration: int = 256
    """Episodes per update, over all env runners."""
    predict_share: float = 0.1
    """Share of questions that ask what given moves lead to."""
    boards_per_size: int = 0
    """Different scenes of each size (of a mixture: in all) that questions are asked about; 0: always new ones."""
    lr: float = 1e-3
    """Peak learning rate of Adam, linear decay to a tenth."""
    gamma: float = 0.95
    """Discount per dream step."""
    epochs: int = 2
    """Passes over the sampled episodes per update."""
    minibatch_size: int = 80
    """Env steps (each with all its dreams) per gradient step and learner."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    entropy_weight: float = 0.01
    """Weight of the action entropy bonus."""
    replay_weight: float = 1.0
    """Weight of the supervised loss on replayed true transitions."""
    replay_scenes: int = 4
    """Scenes of random play replayed per gradient step."""
    answer_weight: float = 0.5
    """Weight of the supervised loss on what the verified dreams of a question support."""
    grad_clip: float = 1.0
    """Largest gradient norm."""
    num_env_runners: int = 0
    """Remote env runners; 0 samples in the driver."""
    gpus_per_env_runner: float = 0.0
    """Share of a GPU for each remote env runner; 0 samples on the CPU."""
    num_learners: int = 2
    """Remote learners; 0 learns in the driver."""
    checkpoint_every: int = 10
    """Updates between checkpoints."""

    def __post_init__(self):
        """Reject values outside their range."""
        in_range(
            "ppo", self, iterations=(0, 1e7), questions_per_iteration=(1, 1e6), predict_share=(0, 1), lr=(1e-8, 1),
            boards_per_size=(0, 1e9),
            gamma=(0, 1), epochs=(1, 100), minibatch_size=(1, 1e7),
            value_weight=(0, 100), entropy_weight=(0, 10), replay_weight=(0, 100), replay_scenes=(1, 1e5),
            answer_weight=(0, 100), grad_clip=(1e-3, 1e3), num_env_runners=(0, 4096), num_learners=(0, 1024),
            gpus_per_env_runner=(0, 1), checkpoint_every=(1, 1e7),
        )  # fmt: skip
        shards = max(1, self.num_env_runners) * max(1, self.num_learners)
        require(
            self.questions_per_iteration % shards == 0,
            "ppo.questions_per_iteration",
            self.questions_per_iteration,
            f"be a multiple of ppo.num_env_runners x ppo.num_learners ({shards})",
        )
        require(
            self.minibatch_size <= self.smallest_shard,
            "ppo.minibatch_size",
            self.minibatch_size,
            f"be <= 2 * ppo.questions_per_iteration / ppo.num_learners ({self.smallest_shard})",
        )

    @property
    def smallest_shard(self) -> int:
        """Env steps that a learner gets at the least: an episode is a dream step and an answer, or longer."""
        return 2 * self.questions_per_iteration // max(1, self.num_learners)


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Stages of PPO, from easy to hard questions; a stage ends when it is mastered.

    Settings are lists with one item a stage, so that ``curriculum.dreams=2,3,4,4`` can be typed; left empty, they
    follow from the model and the world, see :mod:`dreamrl.curriculum`.
    """

    enabled: bool = False
    """Whether PPO goes through the stages; false: everything from the start."""
    stages: tuple[str, ...] = ("core reasoning", "multi-hop", "causal", "multimodal")
    """Names of the stages, in order."""
    worlds: tuple[str, ...] = ()
    """What a stage asks about: NAME[@LOW-HIGH][*WEIGHT], several joined by +, such as frozen_lake@3-4; empty: more
    and more of the run's sizes, or of its worlds by family."""
    dream_length: tuple[int, ...] = ()
    """Longest dream, in steps; empty: from half of model.dream_length up to all of it."""
    dreams: tuple[int, ...] = ()
    """Dreams per question; empty: from half of model.num_dream_sequences up to all of them."""
    hops: tuple[int, ...] = ()
    """Message-passing rounds when dreams are read; empty: from half of model.graph_reasoning_hops up to all."""
    targets: tuple[float, ...] = (0.8,)
    """Exact match at which a stage is mastered; one for all stages, or one each."""
    window: int = 512
    """Latest questions of the stage over which the exact match is taken."""
    min_iterations: tuple[int, ...] = (2,)
    """Fewest updates in a stage; one for all stages, or one each."""
    max_iterations: tuple[int, ...] = ()
    """Most updates in a stage, the last excepted; empty: an equal share of ppo.iterations."""

    def __post_init__(self):
        """Reject values outside their range."""
        count = len(self.stages)
        named = count > 0 and all(name.strip() for name in self.stages) and len(set(self.stages)) == count
        require(named, "curriculum.stages", list(self.stages), "hold at least one name, all different")
        in_range("curriculum", self, window=(1, 1e7))
        for name in ("worlds", "dream_length", "dreams", "hops"):
            value = getattr(self, name)
            rule = f"hold one item for each of the {count} stages, or none"
            require(len(value) in (0, count), f"curriculum.{name}", list(value), rule)
        for name in ("targets", "min_iterations", "max_iterations"):
            value = getattr(self, name)
            ok = len(value) in (1, count) or (name == "max_iterations" and not value)
            rule = f"hold one number for all stages, or one for each of the {count}"
            require(ok, f"curriculum.{name}", list(value), rule)
        ok = all(0 < target <= 1 for target in self.targets)
        require(ok, "curriculum.targets", list(self.targets), "hold numbers above 0 and at most 1")
        self.check("min_iterations", 1, 10**7)
        self.check("max_iterations", 1, 10**7)
        most = self.max_iterations or (10**7,)
        pairs = [(self.of_stage(self.min_iterations, i), self.of_stage(most, i)) for i in range(count)]
        ok = all(low <= high for low, high in pairs)
        rule = f"be >= curriculum.min_iterations ({list(self.min_iterations)}) in every stage"
        require(ok, "curriculum.max_iterations", list(self.max_iterations), rule)

    def check(self, name: str, low: int, high: int, limit: str = "") -> None:
        """Every item of the list ``name`` lies between ``low`` and ``high``, which the setting ``limit`` gives."""
        value = getattr(self, name)
        rule = f"hold numbers from {low} to {f'{limit} ({high})' if limit else high}"
        require(all(low <= item <= high for item in value), f"curriculum.{name}", list(value), rule)

    @staticmethod
    def of_stage(values: tuple, number: int):
        """The item for stage ``number`` of a list that may hold one for all stages."""
        return values[0] if len(values) == 1 else values[number]


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out evaluation at the end of a run."""

    num_items: int = 600
    """Held-out boards, split evenly over world.sizes."""
    dreams: tuple[int, ...] = (1, 4, 16)
    """Numbers of dreams to answer with."""
    temperature: float = 3.0
    """Sampling temperature of actions in every dream but the first, which is greedy."""
    bootstrap: int = 1000
    """Resamples behind each 95% interval."""

    def __post_init__(self):
        """Reject values outside their range."""
        in_range("eval", self, num_items=(1, 1e7), temperature=(0, 10), bootstrap=(1, 1e6))
        ok = len(self.dreams) > 0 and all(1 <= n <= 1024 for n in self.dreams)
        require(ok, "eval.dreams", list(self.dreams), "hold at least one number, each 1 to 1024")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run: pretraining on random play, PPO in dreams, evaluation."""

    preset: str = "nano"
    """The preset that this run started from."""
    seed: int = 0
    """Seed of everything random; the same seed gives the same run."""
    deterministic: bool = False
    """Whether torch must refuse operations that may round differently from run to run; some are slower so."""
    device: str = "auto"
    """Where models learn: cpu, cuda (a GPU for each worker and learner), or auto (GPUs if there is one for each)."""
    precision: str = "float32"
    """Numbers that forward passes calculate with: float32, or bfloat16 (weights and optimizer stay float32)."""
    compile: bool = False
    """Whether torch compiles the transformer blocks: minutes at the start, then fewer and larger kernels."""
    storage: str = ""
    """URI of a second copy of the run, kept up to date while it trains, such as s3://bucket/run; empty: none."""
    max_failures: int = 3
    """Times that a stage goes on after its processes died without a new checkpoint in between."""
    model: DreamingConfig = field(default_factory=DreamingConfig)
    """Architecture."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """World and scenes."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Supervised training."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """Reward weights."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Reinforcement learning."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Stages of PPO."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""

    def __post_init__(self):
        """Reject values outside their range."""
        in_range("run", self, seed=(0, 2**31 - 1), max_failures=(0, 1000))
        require(self.device in DEVICES, "device", self.device, f"be one of {', '.join(DEVICES)}")
        require(self.precision in PRECISIONS, "precision", self.precision, f"be one of {', '.join(PRECISIONS)}")
        share = self.ppo.gpus_per_env_runner
        require(share == 0 or self.device != "cpu", "ppo.gpus_per_env_runner", share, "be 0 with device=cpu")
        self.curriculum.check("dream_length", 1, self.model.dream_length, "model.dream_length")
        self.curriculum.check("dreams", 1, self.model.num_dream_sequences, "model.num_dream_sequences")
        self.curriculum.check("hops", 0, self.model.graph_reasoning_hops, "model.graph_reasoning_hops")
        if self.curriculum.worlds:
            from dreamrl.curriculum import check_worlds  # not needed by most runs

            check_worlds(self)

    def reward_weight(self, component: str) -> float:
        """Weight of a reward component; 0 if ``model.reward_components`` leaves it out."""
        return getattr(self.reward, component) if component in self.model.reward_components else 0.0
