"""Procedural aerial scenes with exact road masks: training data without a download."""
