"""The engine: from a slide's tiles to objects, each tile once, in bounded memory, resumable."""
