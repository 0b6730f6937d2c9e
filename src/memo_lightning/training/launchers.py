"""What the launchers ``fabric run``, ``torchrun`` and ``srun`` say about the processes of a run."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

_SHELLS = ("bash", "interactive")  # names by which Lightning recognises interactive SLURM jobs

# Variable of `fabric run` -> the setting it stands for. LT_DEVICES is not among them, as it may be "auto"; the number
# of processes comes from torchrun, which `fabric run` starts.
_FABRIC = {
    "LT_ACCELERATOR": "trainer.accelerator",
    "LT_STRATEGY": "trainer.strategy",
    "LT_PRECISION": "trainer.precision",
}


def launcher_overrides(environ: Mapping[str, str]) -> list[str]:
    """Return the overrides that make the Trainer fit the processes that a launcher has started.

    They go before the user's own overrides, which take precedence.

    Args:
        environ: the environment variables set by the launcher; without a launcher there are no overrides.
    """
    if "TORCHELASTIC_RUN_ID" in environ:  # torchrun, and with it `fabric run`
        processes, nodes = environ["LOCAL_WORLD_SIZE"], environ["GROUP_WORLD_SIZE"]
    elif _started_by_srun(environ) and "SLURM_NTASKS_PER_NODE" in environ:
        processes, nodes = environ["SLURM_NTASKS_PER_NODE"], environ.get("SLURM_NNODES", "1")
    else:
        return []
    overrides = [f"trainer.devices={processes}", f"trainer.num_nodes={nodes}"]
    if int(processes) * int(nodes) > 1:
        overrides.append("trainer.strategy=ddp")
    return overrides + [f"{setting}={environ[name]}" for name, setting in _FABRIC.items() if name in environ]


def cluster_environment(environ: Mapping[str, str]) -> ClusterEnvironment | None:
    """Return the plugin that tells Lightning about the other processes; None where it finds out by itself.

    Within a SLURM allocation, Lightning would take a command without ``srun`` for one of several processes and wait
    for the others forever.
    """
    if "TORCHELASTIC_RUN_ID" in environ:
        return TorchElasticEnvironment()
    if _started_by_srun(environ):
        return SLURMEnvironment(auto_requeue=False)  # the batch script requeues: docs/scaling.md
    return LightningEnvironment() if "SLURM_JOB_ID" in environ else None


def _started_by_srun(environ: Mapping[str, str]) -> bool:
    """Return whether ``srun`` started this command itself, rather than a shell or script that runs it."""
    return "SLURM_STEP_ID" in environ and environ.get("SLURM_JOB_NAME") not in _SHELLS


def started_by_the_run(environ: Mapping[str, str]) -> bool:
    """Return whether this process is a rank started by torchrun's agent, or by rank 0 through Lightning."""
    return "TORCHELASTIC_RUN_ID" in environ or environ.get("LOCAL_RANK", "0") != "0"


def started_by_lightning(environ: Mapping[str, str]) -> bool:
    """Return whether this process is a rank started by rank 0."""
    return started_by_the_run(environ) and "TORCHELASTIC_RUN_ID" not in environ
