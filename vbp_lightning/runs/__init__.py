"""Everything around a training run: its folder, settings, resumption, report and sweep."""
