"""Assignment of GPUs and CPU cores to workers."""

from __future__ import annotations

import os

import torch

from memo_lightning.errors import UserError


def n_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environments(workers: int, accelerator: str, devices_per_trial: object) -> list[dict[str, str]]:
    """Return the environment variables that give each worker its devices.

    On GPUs, each worker sees its own GPUs; if there are more workers than GPUs, they share them evenly. On the CPU,
    each worker gets an equal share of the cores as threads, unless ``OMP_NUM_THREADS`` says otherwise.

    Args:
        workers: number of trials that run at once.
        accelerator: value of ``trainer.accelerator``.
        devices_per_trial: value of ``trainer.devices``.

    Raises:
        UserError: if a trial needs more GPUs than there are.
    """
    gpus = _gpus()
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus):
        per_trial = devices_per_trial if isinstance(devices_per_trial, int) and devices_per_trial > 0 else 1
        if per_trial > len(gpus):
            raise UserError(f"trainer.devices={devices_per_trial}: must be at most {len(gpus)}, the number of GPUs")
        groups = [gpus[first : first + per_trial] for first in range(0, len(gpus) - per_trial + 1, per_trial)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(groups[worker % len(groups)])} for worker in range(workers)]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, n_cores() // workers)))
    return [{"OMP_NUM_THREADS": threads}] * workers


def _gpus() -> list[str]:
    """Return the ids of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    return [str(gpu) for gpu in range(torch.cuda.device_count())]
