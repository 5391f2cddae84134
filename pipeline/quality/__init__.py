"""How good samples are: distances between sets of images, coverage, memorisation."""
