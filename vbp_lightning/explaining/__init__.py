"""What ``explain.py`` does: the network, the tiles, the attribution methods and the tasks."""
