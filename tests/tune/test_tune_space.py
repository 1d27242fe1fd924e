"""The space of a search: how values are read, how samples become runs, and that every one of them is valid."""

import itertools
import sys

import pytest
import yaml

from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.settings import to_dict
from dreamrl.tune.space import Domain, check_space, flatten, read_space, resolve, run_of

BASE = flatten(to_dict(RunConfig()), "base")


def space_of(text):
    return read_space(yaml.safe_load(text), "FILE")


def test_a_domain_reads_numbers_that_yaml_takes_for_text():
    (domain,) = space_of("ppo.lr: {loguniform: [1e-4, 1e-2]}")
    assert domain == Domain(key="ppo.lr", kind="loguniform", values=(1e-4, 1e-2))
    assert space_of("ppo: {lr: {loguniform: [1e-4, 1e-2]}}") == (domain,)


def test_a_choice_of_lists_survives_the_way_through_a_sampler():
    (domain,) = space_of("world.sizes: {choice: [[3], [3, 4]]}")
    assert all(isinstance(value, str) for value in domain.values)  # what Optuna takes
    assert [run_of(BASE, {"world.sizes": value}).world.sizes for value in domain.values] == [(3,), (3, 4)]
    assert domain.as_dict() == {"choice": [[3], [3, 4]]}


@pytest.mark.parametrize(
    ("domain", "experts", "sampled", "meant"),
    [
        ("choice: [1, 2, 4]", 8, 4, 4),
        ("choice: [1, 2, 4]", 2, 4, 2),
        ("choice: [1, 4]", 3, 4, 1),
        ("int: [1, 6]", 4, 6, 4),
        ("int: [1, 6]", 4, 3, 3),
    ],
)
def test_a_value_stays_at_most_what_another_key_has(domain, experts, sampled, meant):
    space = space_of(f"model.num_experts: {{int: [1, 8]}}\nmodel.moe_top_k: {{{domain}, at_most: model.num_experts}}")
    sample = {"model.num_experts": experts, "model.moe_top_k": sampled}
    assert resolve(BASE, space, sample) == {"model.num_experts": experts, "model.moe_top_k": meant}


def test_the_bound_may_be_a_setting_that_does_not_vary():
    space = space_of("model.moe_top_k: {int: [1, 8], at_most: model.num_experts}")
    assert resolve(BASE, space, {"model.moe_top_k": 8}) == {"model.moe_top_k": BASE["model.num_experts"]}


def test_what_population_based_training_pushes_out_of_its_range_is_held_within():
    space = space_of("model.ppo_gae_lambda: {uniform: [0.8, 1.0]}\nppo.epochs: {int: [1, 4]}")
    resolved = resolve(BASE, space, {"model.ppo_gae_lambda": 1.2, "ppo.epochs": 5})
    assert resolved == {"model.ppo_gae_lambda": 1.0, "ppo.epochs": 4}


CONDITIONAL = """
model.num_experts: {choice: [1, 2, 4, 8]}
model.moe_top_k: {choice: [1, 2, 4], at_most: model.num_experts}
ppo.questions_per_iteration: {choice: [32, 64]}
ppo.minibatch_size: {int: [8, 100], at_most: ppo.questions_per_iteration}
"""


def test_every_sample_of_a_space_that_passes_is_a_valid_run():
    space = space_of(CONDITIONAL)
    check_space(BASE | {"ppo.num_learners": 1}, space, "FILE")
    values = [domain.values if domain.listed else range(domain.values[0], domain.values[1] + 1) for domain in space]
    keys = [domain.key for domain in space]
    for sample in list(itertools.product(*values))[::7]:
        made = resolve(BASE, space, dict(zip(keys, sample, strict=True)))
        run = run_of(BASE | {"ppo.num_learners": 1}, made)
        assert run.model.moe_top_k <= run.model.num_experts
        assert run.ppo.minibatch_size <= run.ppo.questions_per_iteration


@pytest.mark.parametrize(
    ("space", "said"),
    [
        # a pair of values, one beyond the first ones, is refused together only
        (
            "model.num_experts: {choice: [4, 2]}\nmodel.moe_top_k: {choice: [1, 2, 4]}",
            "model.num_experts=2, model.moe_top_k=4, which is refused: model.moe_top_k (4) must be <= "
            "model.num_experts (2); drop a value, or add `at_most: model.num_experts` to model.moe_top_k",
        ),
        ("model.embedding_dim: {int: [16, 64]}", "which is refused: model.embedding_dim (17) must be a multiple"),
        ("ppo.lr: {uniform: [0.1, 2]}", "ppo.lr (2.0) must be between 1e-08 and 1"),
        ("model.moe_gating: {choice: [softmax, soft]}", "model.moe_gating (soft) must be one of softmax, sparsemax"),
        ("world.name: {choice: [frozen_lake, frozen_pond]}", "frozen_pond"),
        ("world.sizes: {choice: [[3], [3, x]]}", "world.sizes"),
        ("world.sizes: {choice: [[3], [99]]}", "99"),
        ("curriculum.dreams: {choice: [[1, 2, 3, 4], [9, 9, 9, 9]]}", "curriculum.dreams"),
        ("ppo.minibatch_size: {choice: [80, 400]}", "ppo.minibatch_size=400"),
    ],
)
def test_a_space_with_an_invalid_sample_is_refused(space, said):
    with pytest.raises(UserError) as refused:
        check_space(BASE, space_of(space), "FILE")
    assert said in str(refused.value) and "FILE" in str(refused.value) and "\n" not in str(refused.value)


def test_checking_needs_neither_torch_nor_ray():
    import subprocess

    code = (
        "import sys, yaml; from dreamrl.tune.plan import plan_from; "
        "plan_from(yaml.safe_load('space: {ppo.lr: {uniform: [0.001, 0.01]}}'), 'x'); "
        "sys.exit(bool({'torch', 'ray', 'optuna'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
