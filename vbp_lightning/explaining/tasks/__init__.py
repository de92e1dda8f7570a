"""The tasks of ``explain.py``: a module for each choice of ``task``, with a function ``run``."""
