"""Settings of the whole suite."""

import gc

from hypothesis import settings

# speed is measured in benchmarks/, and a busy machine must not fail a test
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# exports of networks make so many objects that collecting them took 5 % of the suite
gc.set_threshold(50_000, 20, 50)
