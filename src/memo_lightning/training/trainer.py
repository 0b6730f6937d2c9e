"""Building Lightning's Trainer, and rejecting settings of it that would have no effect."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig

from memo_lightning.config import build
from memo_lightning.errors import UserError, require
from memo_lightning.models import SequenceModel
from memo_lightning.training.checkpoint_io import AtomicCheckpointIO
from memo_lightning.training.launchers import cluster_environment

# An epoch is the whole run; a batch is a rollout or a chunk of one.
_FIXED = {
    "max_epochs": 1,
    "enable_checkpointing": False,  # callbacks/default.yaml has its own, which counts rollouts
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}
_LENGTH = "total_frames=N sets the length of training"
_CLIPPING = "algorithm.max_grad_norm=VALUE clips gradients by norm"
_EVALUATION = "there is no validation during training; memo evaluate runs held-out trials"
# Lightning settings that have no effect here, as a run optimises manually, counts frames and has its own files; and
# what to use instead.
_INSTEAD = {
    **dict.fromkeys(
        ("max_epochs", "min_epochs", "max_steps", "min_steps", "limit_train_batches", "overfit_batches"), _LENGTH
    ),
    **dict.fromkeys(("gradient_clip_val", "gradient_clip_algorithm"), _CLIPPING),
    "accumulate_grad_batches": "algorithm.n_minibatches=N sets the number of minibatches per rollout",
    **dict.fromkeys(
        (
            "val_check_interval",
            "check_val_every_n_epoch",
            "num_sanity_val_steps",
            "limit_val_batches",
            "limit_test_batches",
            "limit_predict_batches",
            "inference_mode",
        ),
        _EVALUATION,
    ),
    "fast_dev_run": "debug=smoke trains for seconds",
    "barebones": "logger=none and callbacks.progress=null turn parts off",
    "enable_checkpointing": "callbacks.checkpointing.every_n_rollouts=N sets how often checkpoints are written",
    "enable_progress_bar": "callbacks.progress=null turns off the progress bar",
    "enable_model_summary": "memo check-env prints the number of parameters",
    "logger": "logger=NAME chooses the logger",
    "callbacks": "callbacks.NAME._target_=CLASS adds a callback",
    "default_root_dir": "run_dir=FOLDER sets where a run is written",
    "model_registry": "memo register adds a checkpoint to the registry",
    **dict.fromkeys(
        ("enable_autolog_hparams", "plugins", "reload_dataloaders_every_n_epochs", "use_distributed_sampler"),
        "leave it out",
    ),
}


def check_trainer_settings(settings: Mapping[str, Any]) -> None:
    """Check that a run can follow the settings of the ``trainer`` group.

    Raises:
        UserError: if it cannot; the message names the setting to use instead.
    """
    for name, value in settings.items():
        if name in _INSTEAD and value != _FIXED.get(name):  # the files of older runs hold the fixed values
            raise UserError(f"trainer.{name}={value}: has no effect in memo train; {_INSTEAD[name]}")


def check_cuda_graphs(is_on: object, trainer: lightning.Trainer, model: SequenceModel) -> None:
    """Check that the passes of ``model`` can be recorded as CUDA graphs, if ``cuda_graphs`` is on.

    Raises:
        UserError: if they cannot.
    """
    require(isinstance(is_on, bool), "cuda_graphs", is_on, "true or false")
    device = trainer.strategy.root_device.type
    on_one = device == "cuda" and trainer.world_size == 1
    where = f"{trainer.world_size} x {device}"
    allowed = f"false on {where}; true needs one GPU and one process (trainer=gpu trainer.devices=1)"
    require(not is_on or on_one, "cuda_graphs", is_on, allowed)
    allowed = f"false for {type(model).__name__} with these settings, whose passes cannot be recorded"
    require(not is_on or model.is_recordable, "cuda_graphs", is_on, allowed)


def build_trainer(
    config: DictConfig, callbacks: Sequence[lightning.Callback], checkpoint_io: AtomicCheckpointIO
) -> lightning.Trainer:
    """Return the Trainer of a run.

    Args:
        config: a configuration of ``memo train`` that has passed :func:`check_trainer_settings`.
        callbacks: all callbacks of the run.
        checkpoint_io: the writer of its checkpoints.

    Raises:
        UserError: if a setting of the ``trainer`` group is wrong or does not fit this machine.
    """
    plugins: list[Any] = [checkpoint_io]
    settings = {
        **_FIXED,
        "logger": False,
        "default_root_dir": config.run_dir,
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
    }
    try:
        if environment := cluster_environment(os.environ):
            plugins.append(environment)
        return build(config.trainer, callbacks=list(callbacks), plugins=plugins, **settings)
    except UserError as error:
        raise UserError(f"trainer: {error}") from None
    except Exception as error:  # Lightning raises a dozen kinds of exceptions for wrong settings
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None
