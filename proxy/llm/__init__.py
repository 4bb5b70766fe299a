"""The model port: an upstream's calls to its language model pass here, and their tokens go to the run."""
