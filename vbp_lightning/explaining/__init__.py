"""The program ``explain.py``: the network, the tiles, the attribution methods and the tasks."""
