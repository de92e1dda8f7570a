"""Helpers shared by several tests: small networks, checkpoints, scenes."""
