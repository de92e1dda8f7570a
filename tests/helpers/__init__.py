"""What several tests use: small networks, checkpoints, scenes."""
