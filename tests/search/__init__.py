"""An exhaustive search over the real `step` and `tell`: every interleaving of two pollers, a person and the world."""
