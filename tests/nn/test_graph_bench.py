"""The measurement of the graph's cost: exponents of known laws, and a number for every size."""

import pytest
import torch

from dreamrl.bench.graph import bench, exponent
from dreamrl.dreaming_config import DreamingConfig


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_the_exponent_of_a_power_law(power):
    assert exponent({n: 3.0 * n**power for n in (2, 4, 16, 32)}) == pytest.approx(power)


def test_every_size_is_measured_and_the_global_generator_left_alone():
    config = DreamingConfig(embedding_dim=16, num_heads=2, graph_num_heads=2, use_learned_edges=True)
    before = torch.get_rng_state()
    result = bench(config, dreams=(2, 24), steps=(2, 12), questions=2, repeats=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert result["ms_by_dreams"].keys() == {2, 24} and result["ms_by_steps"].keys() == {2, 12}
    assert result["ms_by_dreams"][24] > result["ms_by_dreams"][2] > 0  # 7,000 edges against 60
    assert result["dreams_exponent"] == pytest.approx(result["last_dreams_exponent"]) and result["steps_exponent"] < 2
