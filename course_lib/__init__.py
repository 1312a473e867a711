"""Making neural networks small and fast: the tested functions behind the notebooks of the course."""

__version__ = "0.1.0"
