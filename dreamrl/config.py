"""Every setting of a run: frozen dataclasses, checked when they are made.

Each section is a dataclass; a line under each field gives its unit and effect. ``dreamrl.settings`` reads
presets, files and ``key=value`` overrides into them. A wrong value raises a ValueError that names the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field


class ConfigError(ValueError):
    """A setting is wrong; the message names the key, the value and the fix."""


def _require(ok: bool, key: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{key} ({value}) must {rule}")


def _in_range(section: str, config: object, **bounds: tuple[float, float]) -> None:
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        _require(low <= value <= high, f"{section}.{name}", value, f"be between {low:g} and {high:g}")


@dataclass(frozen=True, kw_only=True)
class DreamingConfig:
    """Architecture of :class:`dreamrl.model.DreamingReasoningLLM`."""

    embedding_dim: int = 64
    """Channels of every token."""
    num_heads: int = 4
    """Attention heads everywhere; the rotary grid needs embedding_dim / num_heads to be a multiple of 4."""
    code_levels: tuple[int, ...] = (8, 6, 5)
    """FSQ levels of the image code book; its size is their product."""
    codec_hidden: int = 128
    """Hidden channels of the image codec."""
    patch_size: int = 16
    """Side in pixels of the patch that one image code stands for."""
    trunk_layers: int = 1
    """Transformer blocks that every dream step passes before the experts."""
    trunk_loops: int = 2
    """Times that the trunk is applied with the same weights."""
    num_experts: int = 4
    """Experts of the mixture (spatial, temporal, causal, abstract)."""
    moe_top_k: int = 2
    """Experts that think each dream step through."""
    expert_num_layers: int = 1
    """Transformer blocks of one expert."""
    dynamics_layers: int = 1
    """Blocks between the sampled action and the imagined result."""
    num_dream_sequences: int = 4
    """Dreams N that are imagined in parallel when a caller does not say."""
    dream_length: int = 8
    """Longest dream T, in steps."""
    num_dream_offsets: int = 16
    """Learned vectors that tell parallel dreams apart; dream i uses vector i modulo this."""
    stochastic_results: bool = False
    """Sample result codes and beliefs and count them in the log-probability; else take the most probable."""
    graph_reasoning_hops: int = 2
    """Message-passing rounds over the dream graph."""
    decoder_layers: int = 2
    """Blocks of the text decoder."""
    max_prompt_tokens: int = 32
    """Longest prompt, in tokens."""
    max_answer_tokens: int = 24
    """Longest answer, in tokens, end mark included."""

    def __post_init__(self):
        """Reject what could not be built."""
        _in_range(
            "model", self, embedding_dim=(8, 4096), num_heads=(1, 64), codec_hidden=(8, 4096), patch_size=(4, 64),
            trunk_layers=(1, 48), trunk_loops=(1, 16), num_experts=(1, 64), moe_top_k=(1, 64),
            expert_num_layers=(1, 48), dynamics_layers=(1, 48), num_dream_sequences=(1, 256),
            dream_length=(1, 256), num_dream_offsets=(1, 256), graph_reasoning_hops=(0, 16),
            decoder_layers=(1, 48), max_prompt_tokens=(4, 4096), max_answer_tokens=(2, 4096),
        )  # fmt: skip
        _require(
            self.embedding_dim % (4 * self.num_heads) == 0,
            "model.embedding_dim",
            self.embedding_dim,
            f"be a multiple of 4 * num_heads ({4 * self.num_heads})",
        )
        _require(
            self.moe_top_k <= self.num_experts,
            "model.moe_top_k",
            self.moe_top_k,
            f"be <= model.num_experts ({self.num_experts})",
        )
        # A plan writes two tokens a step (", right"), a question about moves repeats them all.
        _require(
            self.max_answer_tokens > 2 * self.dream_length,
            "model.max_answer_tokens",
            self.max_answer_tokens,
            f"be > 2 * model.dream_length ({2 * self.dream_length})",
        )
        _require(
            self.max_prompt_tokens >= 2 * self.dream_length + 12,
            "model.max_prompt_tokens",
            self.max_prompt_tokens,
            f"be >= 2 * model.dream_length + 12 ({2 * self.dream_length + 12})",
        )
        levels_ok = len(self.code_levels) > 0 and all(3 <= level <= 64 for level in self.code_levels)
        levels_ok = levels_ok and self.num_codes <= 32_000
        _require(
            levels_ok,
            "model.code_levels",
            list(self.code_levels),
            "hold at least one level, each 3 to 64, product <= 32000",
        )

    @property
    def num_codes(self) -> int:
        """Size V of the image code book."""
        size = 1
        for level in self.code_levels:
            size *= level
        return size


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Which world, and which scenes of it are trained and evaluated on."""

    name: str = "frozen_lake"
    """A built-in world."""
    sizes: tuple[int, ...] = (3, 4)
    """Cells a side of the sampled boards, drawn uniformly."""

    def __post_init__(self):
        """Reject sizes that the world's boards cannot have."""
        ok = len(self.sizes) > 0 and all(2 <= size <= 8 for size in self.sizes)
        _require(ok, "world.sizes", list(self.sizes), "hold at least one size, each 2 to 8")


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
    balance_weight: float = 0.01
    """Weight of the experts' load-balance loss."""
    num_workers: int = 2
    """Ray Train workers; the scenes of an update are split among them."""
    checkpoint_every: int = 100
    """Updates between checkpoints."""

    def __post_init__(self):
        """Reject values outside their range."""
        _in_range(
            "pretrain", self, codec_steps=(1, 1e7), steps=(0, 1e8), scenes_per_step=(1, 1e5), lr=(1e-8, 1),
            weight_decay=(0, 1), grad_clip=(1e-3, 1e3), predict_share=(0, 1), balance_weight=(0, 10),
            num_workers=(1, 1024), checkpoint_every=(1, 1e7),
        )  # fmt: skip
        _require(
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
    """Scale of the potential: minus the distance to success, over the dream length."""

    def __post_init__(self):
        """Reject values outside their range."""
        _in_range(
            "reward", self, faithfulness=(0, 100), coherence=(0, 100), correctness=(0, 100), creativity=(0, 100),
            progress=(0, 100),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """PPO (Schulman et al. 2017) in dreams, on RLlib."""

    iterations: int = 26
    """Updates; each samples questions_per_iteration new questions."""
    questions_per_iteration: int = 256
    """Episodes per update, over all env runners."""
    predict_share: float = 0.1
    """Share of questions that ask what given moves lead to."""
    lr: float = 1e-3
    """Peak learning rate of Adam, linear decay to a tenth."""
    gamma: float = 0.95
    """Discount per dream step."""
    gae_lambda: float = 0.95
    """GAE (Schulman et al. 2016) lambda."""
    clip: float = 0.2
    """PPO clip range of the probability ratio."""
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
    num_learners: int = 2
    """Remote learners; 0 learns in the driver."""
    checkpoint_every: int = 10
    """Updates between checkpoints."""

    def __post_init__(self):
        """Reject values outside their range."""
        _in_range(
            "ppo", self, iterations=(0, 1e7), questions_per_iteration=(1, 1e6), predict_share=(0, 1), lr=(1e-8, 1),
            gamma=(0, 1), gae_lambda=(0, 1), clip=(1e-3, 10), epochs=(1, 100), minibatch_size=(1, 1e7),
            value_weight=(0, 100), entropy_weight=(0, 10), replay_weight=(0, 100), replay_scenes=(1, 1e5),
            answer_weight=(0, 100), grad_clip=(1e-3, 1e3), num_env_runners=(0, 4096), num_learners=(0, 1024),
            checkpoint_every=(1, 1e7),
        )  # fmt: skip
        shards = max(1, self.num_env_runners) * max(1, self.num_learners)
        _require(
            self.questions_per_iteration % shards == 0,
            "ppo.questions_per_iteration",
            self.questions_per_iteration,
            f"be a multiple of ppo.num_env_runners x ppo.num_learners ({shards})",
        )
        _require(
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
        _in_range("eval", self, num_items=(1, 1e7), temperature=(0, 10), bootstrap=(1, 1e6))
        ok = len(self.dreams) > 0 and all(1 <= n <= 1024 for n in self.dreams)
        _require(ok, "eval.dreams", list(self.dreams), "hold at least one number, each 1 to 1024")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run: pretraining on random play, PPO in dreams, evaluation."""

    preset: str = "nano"
    """The preset that this run started from."""
    seed: int = 0
    """Seed of everything random; the same seed gives the same run."""
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
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""

    def __post_init__(self):
        """Reject values outside their range."""
        _in_range("run", self, seed=(0, 2**31 - 1))
