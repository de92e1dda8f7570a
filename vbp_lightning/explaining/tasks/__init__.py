"""What ``explain.py`` can do: a module for each choice of ``task``, with a function ``run``."""
