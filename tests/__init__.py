"""The tests. What holds for all of them, set before any other module of theirs is imported."""

import hypothesis
import pytest

# Helpers that assert are rewritten as tests are, so that their failures show what differs.
pytest.register_assert_rewrite("tests.syncing", "tests.past", "tests.scene", "tests.stored", "tests.truth")

# How long an example takes says how busy the machine is, not whether it holds.
hypothesis.settings.register_profile(
    "startlist", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("startlist")
