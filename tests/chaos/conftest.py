"""What the tests of the whole system share."""

from system.fixtures import folder, fresh, pytest_runtest_makereport, shared_systems, system

__all__ = ["folder", "fresh", "pytest_runtest_makereport", "shared_systems", "system"]
