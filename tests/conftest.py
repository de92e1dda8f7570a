"""Settings of the whole suite."""

from hypothesis import settings

# speed is measured in benchmarks/, and a busy machine must not fail a test
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
