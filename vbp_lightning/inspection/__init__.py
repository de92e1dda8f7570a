"""What looks at the network rather than at one decision."""
