"""Which scenes a data set has: the scene record and the layouts of data sets."""
