"""Inspection of a network: its layers, filters, features, gradients and preferred inputs."""
