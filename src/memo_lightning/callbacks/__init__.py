"""Lightning callbacks: baseline swap, rollout metrics, progress, checkpoints, preemption, pruning, shared cores."""

from memo_lightning.callbacks.baseline import Baseline
from memo_lightning.callbacks.checkpointing import Checkpointing
from memo_lightning.callbacks.preemption import Preemption
from memo_lightning.callbacks.progress import FramesProgressBar
from memo_lightning.callbacks.pruning import Pruning
from memo_lightning.callbacks.rollout_metrics import RolloutMetrics
from memo_lightning.callbacks.shared_cores import SharedCores

__all__ = ["Baseline", "Checkpointing", "FramesProgressBar", "Preemption", "Pruning", "RolloutMetrics", "SharedCores"]
