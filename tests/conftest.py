"""Settings of the whole suite."""

import gc

from hypothesis import settings

# speed is measured in benchmarks/, and a busy machine must not fail a test
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_collection_finish():
    """Excludes what was imported from garbage collections, each of which would read all of it."""
    gc.collect()
    gc.freeze()
