"""Training a policy: building the parts that the configuration names, and running them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from omegaconf import DictConfig, OmegaConf

from memo_lightning.config import build
from memo_lightning.data import RolloutDataModule
from memo_lightning.errors import Preempted, TrainingStopped, UserError
from memo_lightning.models import SequenceModel
from memo_lightning.overrides import command, override_text
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.checkpoint import read_checkpoint
from memo_lightning.policies.loading import find_checkpoint
from memo_lightning.processes import end_with_parent, refuse_to_start_in_worker
from memo_lightning.tracking import code_tags, describe_store, environment_name, memory_name, resolve_store
from memo_lightning.training.checkpoint_io import AtomicCheckpointIO
from memo_lightning.training.checkpoints import check_same_algorithm, check_same_architecture, start_from
from memo_lightning.training.launchers import started_by_lightning, started_by_the_run
from memo_lightning.training.learner import PolicyLearner
from memo_lightning.training.parts import build_parts
from memo_lightning.training.preemption import preemptible
from memo_lightning.training.run_dir import (
    check_run_dir,
    checkpoint_path,
    chosen_run_dir,
    claimed_run_dir,
    reported_frames,
    write_config,
)
from memo_lightning.training.trainer import build_trainer, check_cuda_graphs, check_trainer_settings

if TYPE_CHECKING:
    from memo_lightning.tracking.run_logger import RunLogger


_NEEDED_CALLBACKS = ("checkpointing", "metrics", "report")


@preemptible()
def train(config: DictConfig, callbacks: Sequence[lightning.Callback] = ()) -> dict[str, Any]:
    """Run the training that ``conf/train.yaml`` and its overrides describe.

    Mistakes in the configuration are found before anything is written. Only the first process of a run writes and
    reports.

    Args:
        config: a configuration composed by :func:`memo_lightning.config.compose_config`.
        callbacks: further callbacks, after those of the configuration.

    Returns:
        The metrics of ``metrics.json``; empty in all processes but the first.

    Raises:
        UserError: if the configuration is wrong, or ``run_dir`` cannot be used.
        TrainingStopped: if training cannot continue, or its results cannot be written.
        Preempted: after SIGTERM.
    """
    refuse_to_start_in_worker()
    _silence_libraries()
    check_trainer_settings(config.trainer)
    for name in _NEEDED_CALLBACKS:
        if not config.callbacks.get(name):
            raise UserError(
                f"callbacks.{name}=null: cannot be switched off; every run writes a checkpoint and a report"
            )
    if started_by_the_run(os.environ):
        end_with_parent()
    checkpoint = _checkpoint_to_resume_from(config) if config.resume else None
    with chosen_run_dir(config) as run_dir:
        return _train(config, run_dir, checkpoint, callbacks)


def _train(
    config: DictConfig, run_dir: Path, checkpoint: dict[str, Any] | None, callbacks: Sequence[lightning.Callback]
) -> dict[str, Any]:
    """Build the parts and run them; ``checkpoint`` is the one to resume from, if any."""
    if config.logger:
        config.logger.tracking_uri = resolve_store(config.logger.tracking_uri)
        config.logger.experiment_name = str(config.logger.experiment_name)  # in a file, a name may be a number

    lightning.seed_everything(config.seed, verbose=False)
    plain_config: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    parts = build_parts(config)
    data, policy, model, algorithm = parts.data, parts.policy, parts.model, parts.algorithm
    if checkpoint:
        check_same_architecture(checkpoint, plain_config, policy, model)
    origin = _start_from(plain_config, policy, model) if config.checkpoint and not checkpoint else None
    algorithm.prepare_policy(policy, data)
    if checkpoint:
        check_same_algorithm(checkpoint, plain_config, algorithm)
        algorithm.load_progress(checkpoint["algorithm"])
    learner = PolicyLearner(policy, algorithm, plain_config, parts.spec)
    all_callbacks = [*(build(callback) for callback in config.callbacks.values() if callback), *callbacks]
    if parts.baseline:
        all_callbacks.insert(0, parts.baseline)
    checkpoint_io = AtomicCheckpointIO()
    trainer = build_trainer(config, all_callbacks, checkpoint_io)
    check_cuda_graphs(config.get("cuda_graphs", False), trainer, model)
    if trainer.is_global_zero and not checkpoint:
        check_run_dir(run_dir)
    stored = algorithm.plan_storage(policy, data, run_dir, trainer.world_size, is_resumed=checkpoint is not None)
    with claimed_run_dir(run_dir) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            _begin_run(config, trainer, plain_config, checkpoint)
            for remark in [*([origin] if origin else []), *parts.remarks, *stored]:
                print(remark, file=sys.stderr)
            n_frames = checkpoint["frames"] if checkpoint else 0
            per_rollout = data.frames_per_rollout * trainer.world_size
            n_frames += max(0, -(-(config.total_frames - n_frames) // per_rollout)) * per_rollout
            _announce(config, model, checkpoint, _frames_in_words(config, n_frames))
        _fit(trainer, learner, data, resume=checkpoint is not None)
    if trainer.is_global_zero and checkpoint_io.error:
        raise TrainingStopped(f"{checkpoint_path(run_dir)}: the final state could not be saved ({checkpoint_io.error})")
    return learner.results


def _begin_run(
    config: DictConfig,
    trainer: lightning.Trainer,
    plain_config: dict[str, Any],
    checkpoint: dict[str, Any] | None,
) -> None:
    """Write the configuration and create the MLflow run; the first process does so before the others start."""
    run_dir = Path(config.run_dir)
    logger = _build_logger(config, checkpoint) if config.logger else None
    write_config(config, run_dir)
    if logger:
        if checkpoint is None:  # MLflow cannot change parameters; for a resumed run, see the artifact
            logger.log_hyperparams(plain_config)
        logger.log_files(run_dir / "config.yaml")
        trainer.loggers = [logger]


def _checkpoint_to_resume_from(config: DictConfig) -> dict[str, Any]:
    run_dir = Path(config.resume)
    checkpoint = read_checkpoint(checkpoint_path(run_dir))
    # A run that was stopped between its last checkpoint and its report only has to write the report.
    if reported_frames(run_dir) >= checkpoint["frames"] >= config.total_frames:
        raise UserError(
            f"total_frames={config.total_frames}: must be more than {checkpoint['frames']}, the frames that "
            f"resume={config.resume} has already been trained for"
        )
    return checkpoint


def _start_from(config: dict[str, Any], policy: MemoryPolicy, model: SequenceModel) -> str:
    """Load the weights of another run, and return a line that says so."""
    tracking_uri = config["logger"]["tracking_uri"] if config["logger"] else None
    pretrained = find_checkpoint(config["checkpoint"], tracking_uri)
    new = start_from(pretrained, config, policy, model)
    trained_for = f"trained for {pretrained['frames']:,} frames"
    return f"weights from {config['checkpoint']}, {trained_for}; newly initialized: {', '.join(new) or 'none'}"


def _fit(trainer: lightning.Trainer, learner: PolicyLearner, data: RolloutDataModule, *, resume: bool) -> None:
    run_dir = Path(trainer.default_root_dir)
    path = checkpoint_path(run_dir)
    try:
        trainer.fit(learner, datamodule=data, ckpt_path=path if resume else None, weights_only=True)
        return
    except SystemExit as end:  # how Lightning exits after Ctrl-C, once callbacks and loggers have been told
        reason = Preempted() if isinstance(end.__context__, Preempted) else KeyboardInterrupt()
    except BaseException as error:
        launcher = trainer.strategy.launcher
        if launcher is not None:  # the ranks started by this process would wait for it forever
            launcher.kill(signal.SIGKILL)
        if isinstance(error, TrainingStopped):
            raise TrainingStopped(f"{error}; checkpoint: {path}") from None
        if not learner.preemption.asked:
            raise
        reason = Preempted()  # SIGTERM also went to the workers, which ended first
    finally:
        learner.preemption.disarm()
    if trainer.is_global_zero:
        word = "preempted" if isinstance(reason, Preempted) else "interrupted"
        again = command("memo", "train", override_text("resume", str(run_dir)))
        left = f"checkpoint: {path}\nnext: {again}" if path.exists() else "training had not started"
        print(f"{word}; {left}", file=sys.stderr)
    if started_by_lightning(os.environ):
        raise SystemExit(0)  # with any other status, rank 0 would be killed while it is still writing
    raise reason


def _build_logger(config: DictConfig, checkpoint: dict[str, Any] | None) -> RunLogger:
    return build(
        config.logger,
        run_id=checkpoint["mlflow_run_id"] if checkpoint else None,
        unsent=checkpoint.get("unsent_metrics", ()) if checkpoint else (),
        run_name=str(config.logger.get("run_name") or Path(config.run_dir).name),
        tags={
            **{str(name): str(value) for name, value in config.logger.get("tags", {}).items()},
            "memory": memory_name(config),
            "environment": environment_name(config),
            "seed": str(config.seed),
            "run_dir": config.run_dir,
            "mlflow.source.name": "memo train",
            "mlflow.note.content": _description(config),
            **code_tags(),
        },
    )


def _description(config: DictConfig) -> str:
    """Return the description that MLflow's page of the run shows above its metrics."""
    return (
        f"{memory_name(config)} on {environment_name(config)}, {config.total_frames:,} frames, seed {config.seed}. "
        f"Folder: `{config.run_dir}`. Settings: see the parameters, or `config.yaml` in the artifacts."
    )


def _frames_in_words(config: DictConfig, n_frames: int) -> str:
    """Return how many frames a run trains for, and why if they are more than was asked for."""
    if n_frames <= config.total_frames:
        return f"{n_frames:,} frames"
    n_envs, length = config.collector.n_envs, config.collector.rollout_length
    return f"{n_frames:,} frames (total_frames={config.total_frames} in whole rollouts of {n_envs} x {length} steps)"


def _announce(config: DictConfig, model: SequenceModel, checkpoint: dict[str, Any] | None, frames: str) -> None:
    verb = f"resuming at {checkpoint['frames']:,} frames" if checkpoint else "training"
    logger = config.logger
    logged = f", logging to {describe_store(logger.tracking_uri, logger.experiment_name)}" if logger else ""
    print(
        f"{verb} {type(model).__name__} on {environment_name(config)}, {frames}, "
        f"seed {config.seed}; writing to {config.run_dir}{logged}",
        file=sys.stderr,
    )


def _silence_libraries() -> None:
    """Keep messages of libraries that do not concern the user off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric", "torchrl"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*|torchrl.*|tensordict.*|mlflow.*")
