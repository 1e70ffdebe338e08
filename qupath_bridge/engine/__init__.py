"""From tiles to objects, in bands: the engine."""
