"""Reports: what a sparse network is, layer by layer and as a whole."""
