"""A training run: its folder, settings, model, logger, resumption, report, sweep, data check."""
