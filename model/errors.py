"""The one error that the model package raises for what a user can mend."""


class ModelError(Exception):
    """A model folder, a head or a device cannot be used; the message says which and what to do."""
