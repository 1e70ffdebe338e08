"""The bridge between QuPath projects and diffusion-model tissue segmentation."""

__version__ = "0.1.0"
