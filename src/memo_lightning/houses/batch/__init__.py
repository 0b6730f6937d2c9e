"""Many trials of object navigation stepped together by compiled kernels.

Rows are independent: what a row sees and does depends on its placement and its actions, never on the rows beside it.
"""

from memo_lightning.houses.batch.engine import BatchedTrials

__all__ = ["BatchedTrials"]
