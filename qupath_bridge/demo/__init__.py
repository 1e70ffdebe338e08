"""The demo: a slide drawn from a seed, with its exact truth, in a QuPath project."""
