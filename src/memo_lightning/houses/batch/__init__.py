"""Batched object navigation: many trials stepped together by compiled kernels.

Environments, the rows of a batch, are independent: each depends on its own placement and actions only.
"""

from memo_lightning.houses.batch.engine import BatchedTrials

__all__ = ["BatchedTrials"]
