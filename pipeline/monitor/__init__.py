"""What a run shows about itself: scalars, image grids, histograms and text, sent to any number of sinks."""
