"""Training a policy: build the parts that the configuration names, and run them."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from memo_lightning.callbacks.baselines import Baseline
from memo_lightning.callbacks.checkpointing import checkpoint_path
from memo_lightning.config import build
from memo_lightning.envs.build import build_env
from memo_lightning.errors import UserError, require
from memo_lightning.evaluation.checkpoints import load_checkpoint
from memo_lightning.models import SequenceModel
from memo_lightning.policies.build import build_policy
from memo_lightning.rollouts import RolloutDataModule
from memo_lightning.tracking import RunLogger, code_version, memory_name, resolve_store
from memo_lightning.training.learner import PolicyLearner
from memo_lightning.training.run_dir import check_run_dir, create_run_dir, default_run_dir


def train(config: DictConfig, callbacks: Sequence[lightning.Callback] = ()) -> dict[str, Any]:
    """Run the training that ``conf/train.yaml`` and its overrides describe.

    Everything that can be wrong with the configuration is found before anything is written.

    Args:
        config: a configuration composed by :func:`memo_lightning.config.compose_config`.
        callbacks: further callbacks beside those of the configuration.

    Returns:
        The figures of ``metrics.json``.

    Raises:
        UserError: if the configuration is wrong, or ``run_dir`` cannot be used.
    """
    _silence_libraries()
    checkpoint = _checkpoint_to_go_on_from(config) if config.resume else None
    run_dir = Path(config.run_dir or default_run_dir(config))
    config.run_dir = str(run_dir)
    if checkpoint is None:
        check_run_dir(run_dir)
    if config.logger:
        config.logger.tracking_uri = resolve_store(config.logger.tracking_uri)

    lightning.seed_everything(config.seed, verbose=False)
    data: RolloutDataModule = build(config.collector, partial(build_env, config.env))
    policy = build_policy(config, data.env)
    baseline: Baseline | None = build(config.baseline) if config.baseline else None
    if baseline:
        baseline.check(policy)
    model = baseline.model if baseline else policy.sequence_model
    _check_segment(model, data.rollout_length)
    plain_config: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    algorithm = build(config.algorithm)
    algorithm.check_rows(data.n_envs)
    learner = PolicyLearner(policy, algorithm, plain_config)
    all_callbacks = [*(build(callback) for callback in config.callbacks.values()), *callbacks]
    if baseline:
        all_callbacks.insert(0, baseline)
    trainer = _build_trainer(config, all_callbacks)

    logger = _build_logger(config, checkpoint) if config.logger else None
    create_run_dir(run_dir)
    OmegaConf.save(config, run_dir / "config.yaml")  # unresolved: a resumed run can change values
    if logger:
        if checkpoint is None:  # MLflow never changes a parameter; the artifact shows what was changed
            logger.log_hyperparams(plain_config)
        logger.log_files(run_dir / "config.yaml")
        trainer.loggers = [logger]
    _announce(config, model, checkpoint)
    _fit(trainer, learner, data, resume=checkpoint is not None)
    return json.loads((run_dir / "metrics.json").read_text())


def _checkpoint_to_go_on_from(config: DictConfig) -> dict[str, Any]:
    checkpoint = load_checkpoint(checkpoint_path(Path(config.resume)))
    if checkpoint["frames"] >= config.total_frames:
        raise UserError(
            f"total_frames={config.total_frames}: must be more than the {checkpoint['frames']} frames that "
            f"the run in resume={config.resume} has been trained for"
        )
    return checkpoint


def _fit(trainer: lightning.Trainer, learner: PolicyLearner, data: RolloutDataModule, *, resume: bool) -> None:
    run_dir = Path(trainer.default_root_dir)
    path = checkpoint_path(run_dir)
    try:
        trainer.fit(learner, datamodule=data, ckpt_path=path if resume else None, weights_only=True)
    except SystemExit:  # how Lightning ends after Ctrl-C, once callbacks and loggers have been told
        print(f"interrupted; checkpoint: {path}\nnext: memo train resume={run_dir}", file=sys.stderr)
        raise KeyboardInterrupt from None


def _check_segment(model: SequenceModel, rollout_length: int) -> None:
    segment_length = getattr(model, "segment_length", 1)
    require(
        segment_length <= rollout_length,
        "model.segment_length",
        segment_length,
        f"at most the {rollout_length} steps of a rollout",
    )


def _build_trainer(config: DictConfig, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    try:
        return build(config.trainer, callbacks=callbacks, logger=False, default_root_dir=config.run_dir)
    except (MisconfigurationException, TypeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None


def _build_logger(config: DictConfig, checkpoint: dict[str, Any] | None) -> RunLogger:
    memory, environment = memory_name(config.choices.baseline), config.choices.env
    return build(
        config.logger,
        run_id=checkpoint["mlflow_run_id"] if checkpoint else None,
        run_name=Path(config.run_dir).name,
        tags={
            **config.logger.tags,
            "memory": memory,
            "environment": environment,
            "seed": str(config.seed),
            "run_dir": config.run_dir,
            "code": code_version(),
        },
    )


def _announce(config: DictConfig, model: SequenceModel, checkpoint: dict[str, Any] | None) -> None:
    verb = f"going on at {checkpoint['frames']:,} frames with" if checkpoint else "training"
    print(
        f"{verb} {type(model).__name__} on {config.choices.env}, {config.total_frames:,} frames, "
        f"seed {config.seed}; writing to {config.run_dir}",
        file=sys.stderr,
    )


def _silence_libraries() -> None:
    """Keep the libraries' remarks that are no concern of the user's off the terminal."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*|torchrl.*|tensordict.*|mlflow.*")
