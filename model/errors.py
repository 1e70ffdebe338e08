"""The errors that the model package raises for what a user can mend."""


class ModelError(Exception):
    """A model folder, a head or a device cannot be used; the message says which and what to do."""


class DivergedError(ModelError):
    """A training's loss was no number before any epoch was done: nothing was learned."""
