"""Ray in the tests' own process."""

import pytest


@pytest.fixture(scope="module")
def ray_here(request):
    """Ray as long as the module's tests run, with the ``CPUS`` that the module says, 2 by default."""
    import ray

    cpus = getattr(request.module, "CPUS", 2)
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 1024**2)
    yield
    ray.shutdown()
