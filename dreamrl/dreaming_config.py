"""Every setting of the model itself; the settings of a run are in ``dreamrl.config``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ConfigError(ValueError):
    """A setting is wrong; the message names the key, the value and the fix."""


def require(ok: bool, key: str, value: object, rule: str) -> None:
    """Raise a :class:`ConfigError` unless ``ok``."""
    if not ok:
        raise ConfigError(f"{key} ({value}) must {rule}")


def in_range(section: str, config: object, **bounds: tuple[float, float]) -> None:
    """Every named field of ``config`` lies within its bounds, ends included."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        require(low <= value <= high, f"{section}.{name}", value, f"be between {low:g} and {high:g}")


def one_of(section: str, config: object, **choices: Sequence[str]) -> None:
    """Every named field of ``config`` is one of its choices."""
    for name, allowed in choices.items():
        value = getattr(config, name)
        require(value in allowed, f"{section}.{name}", value, f"be one of {', '.join(allowed)}")


POSITIONS = ("rope", "rope+yarn", "alibi", "learned")
BACKBONES = ("none", "lite", "vit", "resnet", "clip")
EXPERT_TYPES = ("spatial", "temporal", "causal", "abstract", "general")
REWARD_COMPONENTS = ("faithfulness", "coherence", "correctness", "creativity")
NORMALISERS = ("softmax", "sparsemax")


@dataclass(frozen=True, kw_only=True)
class DreamingConfig:
    """Architecture of :class:`dreamrl.model.DreamingReasoningLLM`, and what belongs to its training objective.

    The defaults are the ``nano`` preset. Fields listed in ``OBJECTIVE_FIELDS`` change no weight's shape: PPO on
    a finished model may set them anew.
    """

    embedding_dim: int = 64
    """Channels of every token."""
    num_heads: int = 4
    """Attention heads everywhere; the rotary grid needs embedding_dim / num_heads to be a multiple of 4."""
    vocab_size: int = 512
    """Most text tokens that the tokenizer may learn; bytes and marks take 259 of them."""
    positions: str = "rope"
    """How text and dream attention know where a token stands: rope, rope+yarn, alibi, learned."""
    yarn_factor: float = 1.0
    """With rope+yarn: how many times longer than in training the context may get."""
    attention: str = "softmax"
    """Normaliser of attention weights: softmax, or sparsemax (exact zeros)."""

    code_levels: tuple[int, ...] = (8, 6, 5)
    """FSQ levels of the image code book; its size is their product."""
    codec_hidden: int = 128
    """Hidden channels of the image codec."""
    patch_size: int = 16
    """Side in pixels of the patch that one image code stands for."""
    vision_backbone: str = "none"
    """What else looks at the prompt's pictures: none (codes only), lite, vit, resnet, clip."""
    vision_weights: str = ""
    """Local directory with pretrained weights of vit, resnet or clip; empty: random initialisation."""
    use_contrastive_loss: bool = False
    """Align (picture, actions in words) with the picture they lead to, in pretraining."""
    contrastive_temperature: float = 0.07
    """Initial temperature of the contrastive loss; learned, clamped to [0.01, 1]."""
    contrastive_loss_weight: float = 0.1
    """Weight of the contrastive loss."""
    embedding_dropout: float = 0.0
    """Share of prompt embeddings set to zero, in pretraining only."""
    token_masking: float = 0.0
    """Share of prompt tokens replaced by a learned mask embedding, in pretraining only."""

    trunk_layers: int = 1
    """Transformer blocks that every dream step passes before the experts."""
    use_local_mixing: bool = True
    """Let neighbouring patches look at each other by convolution, besides attention."""
    trunk_loops: int = 2
    """Times that the trunk is applied with the same weights."""
    num_experts: int = 4
    """Experts of the mixture."""
    expert_types: tuple[str, ...] = ("general",)
    """What each expert attends to, in turn: spatial, temporal, causal, abstract, general."""
    moe_top_k: int = 2
    """Experts that think each dream step through."""
    moe_gating: str = "softmax"
    """Router scores -> weights: softmax or sparsemax."""
    moe_noise_std: float = 0.0
    """Scale of the noisy top-k gating in pretraining; never in PPO, whose ratio it would break."""
    load_balance: str = "switch"
    """switch (auxiliary loss) or bias (DeepSeek's loss-free bias)."""
    load_balance_loss_weight: float = 0.01
    """Weight of the Switch load-balance loss; with load_balance=bias: step of the bias."""
    router_z_loss_weight: float = 0.0
    """Weight of the router z-loss."""
    use_cross_expert_attention: bool = False
    """Let the chosen experts of a step attend to each other's summaries before they are mixed."""
    expert_num_layers: int = 1
    """Transformer blocks of one expert."""
    expert_num_heads: int = 4
    """Attention heads of the experts and of the attention between them."""
    dynamics_layers: int = 1
    """Blocks between the sampled action and the imagined result."""

    num_dream_sequences: int = 4
    """Dreams N that are imagined in parallel when a caller does not say."""
    dream_length: int = 8
    """Longest dream T, in steps."""
    num_dream_offsets: int = 16
    """Learned vectors that tell parallel dreams apart; dream i uses vector i modulo this."""
    use_dream_memory: bool = False
    """Let a dream step attend to the earlier steps of its dream."""
    stochastic_results: bool = False
    """Sample result codes and beliefs and count them in the log-probability; else take the most probable."""

    graph_reader: str = "graph"
    """How dreams are read: graph, mean (no edges, mean pooling), shuffled (edges between random nodes)."""
    graph_reasoning_hops: int = 2
    """Message-passing rounds over the dream graph."""
    graph_num_heads: int = 4
    """Attention heads of the graph transformer."""
    use_learned_edges: bool = False
    """Add edges that the model chooses itself between the triplets of different dreams and steps."""
    num_edge_types: int = 4
    """Types of learned edges."""
    use_node_memory: bool = False
    """Update nodes through a GRU from hop to hop instead of a plain residual sum."""

    use_picture_reading: bool = False
    """The reader sees where things are in the dreamed pictures, and the text decoder reads the last picture of the
    dream in focus patch by patch: for answers that stand in the picture, such as a grid of digits."""
    decoder_layers: int = 2
    """Blocks of the text decoder."""
    max_prompt_tokens: int = 32
    """Longest prompt, in tokens."""
    max_answer_tokens: int = 24
    """Longest answer, in tokens, end mark included."""

    use_ppo: bool = True
    """Build the parts that only PPO needs trained; false: supervised training only."""
    ppo_clip_epsilon: float = 0.2
    """PPO clip range of the probability ratio."""
    ppo_gae_lambda: float = 0.95
    """GAE (Schulman et al. 2016) lambda."""
    reward_components: tuple[str, ...] = REWARD_COMPONENTS
    """Reward components that are paid; their weights are in the run's ``reward`` section."""

    def __post_init__(self):
        """Reject what could not be built."""
        in_range(
            "model", self, embedding_dim=(8, 4096), num_heads=(1, 64), vocab_size=(260, 1_000_000),
            yarn_factor=(1, 64), codec_hidden=(8, 4096), patch_size=(4, 64), contrastive_temperature=(0.01, 1),
            contrastive_loss_weight=(0, 10), embedding_dropout=(0, 0.9), token_masking=(0, 0.9),
            trunk_layers=(1, 48), trunk_loops=(1, 16), num_experts=(1, 64), moe_top_k=(1, 64), moe_noise_std=(0, 10),
            load_balance_loss_weight=(0, 10), router_z_loss_weight=(0, 10), expert_num_layers=(1, 48),
            expert_num_heads=(1, 64), dynamics_layers=(1, 48), num_dream_sequences=(1, 256), dream_length=(1, 256),
            num_dream_offsets=(1, 256), graph_reasoning_hops=(0, 16), graph_num_heads=(1, 64),
            num_edge_types=(1, 16), decoder_layers=(1, 48), max_prompt_tokens=(4, 4096),
            max_answer_tokens=(2, 4096), ppo_clip_epsilon=(1e-3, 10), ppo_gae_lambda=(0, 1),
        )  # fmt: skip
        one_of(
            "model", self, positions=POSITIONS, attention=NORMALISERS, vision_backbone=BACKBONES,
            moe_gating=NORMALISERS, load_balance=("switch", "bias"), graph_reader=("graph", "mean", "shuffled"),
        )  # fmt: skip
        self._check_heads()
        self._check_lengths()
        require(
            self.moe_top_k <= self.num_experts,
            "model.moe_top_k",
            self.moe_top_k,
            f"be <= model.num_experts ({self.num_experts})",
        )
        for name, allowed in (("expert_types", EXPERT_TYPES), ("reward_components", REWARD_COMPONENTS)):
            value = getattr(self, name)
            ok = len(value) > 0 and set(value) <= set(allowed)
            require(ok, f"model.{name}", list(value), f"hold one or more of {', '.join(allowed)}")
        levels_ok = len(self.code_levels) > 0 and all(3 <= level <= 64 for level in self.code_levels)
        levels_ok = levels_ok and self.num_codes <= 32_000
        rule = "hold at least one level, each 3 to 64, product <= 32000"
        require(levels_ok, "model.code_levels", list(self.code_levels), rule)

    def _check_heads(self) -> None:
        for name in ("num_heads", "expert_num_heads", "graph_num_heads"):
            heads = getattr(self, name)
            require(
                self.embedding_dim % (4 * heads) == 0,
                "model.embedding_dim",
                self.embedding_dim,
                f"be a multiple of 4 * {name} ({4 * heads})",
            )

    def _check_lengths(self) -> None:
        # A plan writes two tokens a step (", right"), a question about moves repeats them all.
        need = {"max_answer_tokens": 2 * self.dream_length + 1, "max_prompt_tokens": 2 * self.dream_length + 12}
        for name, least in need.items():
            rule = f"be >= {least}, for dreams of model.dream_length ({self.dream_length}) steps"
            require(getattr(self, name) >= least, f"model.{name}", getattr(self, name), rule)

    @property
    def num_codes(self) -> int:
        """Size V of the image code book."""
        size = 1
        for level in self.code_levels:
            size *= level
        return size


OBJECTIVE_FIELDS = (
    "contrastive_loss_weight",
    "embedding_dropout",
    "token_masking",
    "load_balance_loss_weight",
    "router_z_loss_weight",
    "use_ppo",
    "ppo_clip_epsilon",
    "ppo_gae_lambda",
    "reward_components",
)
"""Fields of :class:`DreamingConfig` that may differ from those a model was pretrained with."""
