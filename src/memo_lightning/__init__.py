"""A PyTorch Lightning experiment platform for reinforcement learning with long memory."""

__version__ = "0.1.0"
