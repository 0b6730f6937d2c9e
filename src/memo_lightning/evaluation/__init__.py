"""Evaluation: in-context curves and statistics over trials."""
