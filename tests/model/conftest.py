"""What the tests of the model's parts share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_networks_compile_quickly(quick_compiles):
    """All that these tests compile takes longer to compile than to run."""
