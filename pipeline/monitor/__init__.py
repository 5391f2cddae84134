"""What a run shows of itself: scalars, image grids, histograms and text, to any number of sinks."""
