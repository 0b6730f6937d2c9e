"""The cases of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from memo_lightning.benchmarks.case import Case
from memo_lightning.config import compose_config, group_options, nearest
from memo_lightning.errors import UserError, require
from memo_lightning.models.segments import SegmentedModel
from memo_lightning.policies.spec import build_memory
from memo_lightning.training.parts import build_baseline

# Settings that select the cases. All others are shared by the cases of a benchmark.
_WHICH_CASES = ("memories", "context_lengths", "measures", "arms", "staggered", "streaming_steps", "run_dir", "choices")
# Order of memories in tables; others follow.
_FIRST = (
    *("memo", "memo_checkpointed", "full_context", "rmt", "autocompressor", "direct_kv", "retrieval"),
    *("lstm", "gru", "memoryless"),
)


def plan(config: DictConfig) -> list[Case]:
    """Return the cases that ``config`` asks for; cases that are compared are adjacent.

    Raises:
        UserError: if a setting is out of range or does not fit the others.
    """
    arms = arms_of(config)
    memories = list(arms) if config.memories is None else list(config.memories)
    _check(config, memories, arms)
    models = {memory: _model_settings(config, arms[memory]) for memory in memories}
    segmented = [name for name, model in models.items() if isinstance(build_memory(model), SegmentedModel)]
    whole = dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    settings = {str(key): value for key, value in whole.items() if key not in _WHICH_CASES}

    cases = [
        Case(kind, memory, model, length, settings)
        for length in sorted(config.context_lengths)
        for kind in config.measures
        for memory, model in models.items()
    ]
    for memory in config.staggered:
        if memory in models:
            allowed = f"a memory with segments: {', '.join(segmented)}"
            require(memory in segmented, "staggered", memory, allowed)
            cases.append(Case("staggered", memory, models[memory], config.staggered_length, settings))
    if config.streaming_steps:
        memo = {**_model_settings(config, arms["memo"]), "memory_budget": config.streaming_budget}
        build_memory(memo)
        cases.append(Case("streaming", "memo", memo, config.streaming_steps, settings))
    return cases


def arms_of(config: DictConfig) -> dict[str, list[str]]:
    """Return the memories that can be measured, each with the ``memo train`` overrides that select it.

    They are Memo, every option of ``conf/baseline/`` that is a memory, and those that ``config.arms`` adds.
    """
    options = [option for option in group_options("baseline") if option not in ("none", "custom")]
    arms: dict[str, list[str]] = {"memo": [], **{option: [f"baseline={option}"] for option in options}}
    arms |= {str(name): list(overrides) for name, overrides in config.arms.items()}
    return {name: arms[name] for name in dict.fromkeys([*_FIRST, *arms]) if name in arms}


def _check(config: DictConfig, memories: Sequence[str], arms: Mapping[str, Sequence[str]]) -> None:
    """Raise :class:`UserError` unless every setting is in range."""
    least = {"update_rows": 1, "acting_rows": 1, "input_sets": 1, "max_seconds": 0, "threads": 1, "streaming_steps": 0}
    for name, smallest in least.items():
        require(config[name] >= smallest, name, config[name], f"at least {smallest}")
    require(config.precision in ("float32", "bfloat16"), "precision", config.precision, "float32 or bfloat16")
    require(config.device in ("cpu", "cuda"), "device", config.device, "cpu or cuda")
    require(config.device == "cpu" or torch.cuda.is_available(), "device", config.device, "cpu: there is no GPU here")
    segment, lengths = config.model.segment_length, list(config.context_lengths)
    require(segment >= 2, "model.segment_length", segment, "at least 2")
    require(len(lengths) > 0, "context_lengths", lengths, f"one or more multiples of model.segment_length={segment}")
    for name, length in [*(("context_lengths", n) for n in lengths), ("staggered_length", config.staggered_length)]:
        valid = isinstance(length, int) and length >= 2 * segment and length % segment == 0
        require(valid, name, length, f"a multiple of model.segment_length={segment}, at least twice as long")
    require(len(memories) > 0, "memories", [], f"one or more of {', '.join(arms)}")
    for measure in config.measures:
        require(measure in ("update", "acting"), "measures", measure, "update or acting")
    require(len(config.measures) > 0, "measures", [], "update, acting or both")
    for memory in memories:
        if memory not in arms:
            raise UserError(f"memories={memory}: {nearest(memory, arms)}")


def _model_settings(config: DictConfig, arm: Sequence[str]) -> dict[str, Any]:
    """Return ``_target_`` and settings of a memory, as in ``memo train`` with the overrides of its arm."""
    sizes = [f"model.{name}={value}" for name, value in config.model.items()]
    trained: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        compose_config("train", [*sizes, *arm]), resolve=True
    )
    baseline = build_baseline(trained)
    return baseline.memory if baseline else trained["model"]
