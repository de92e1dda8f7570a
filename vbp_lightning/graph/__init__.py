"""The graph of a network: its operations, exported from one forward pass, and what they mean."""
