"""``memo serve``: serve a policy to programs that are not written in Python."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError, require
from memo_lightning.models import SequenceModel
from memo_lightning.policies.loading import load
from memo_lightning.policies.memory_policy import MemoryPolicy

HELP = """Serves a policy over HTTP and WebSocket, with a separate memory for each session, until Ctrl-C or SIGTERM. If
other machines can reach it, requests must send the token in the environment variable MEMO_SERVE_TOKEN."""
_BYTES_PER_NUMBER = 32  # of an observation, written as JSON


def main(arguments: Sequence[str]) -> None:
    """Serve until a signal arrives."""
    if print_help("serve", HELP, arguments):
        return
    config = compose_config("serve", arguments)
    try:
        from memo_lightning.serving.schemas import n_numbers
        from memo_lightning.serving.server import TOKEN_VARIABLE, is_loopback, listen, read_token, serve
        from memo_lightning.serving.service import Limits, Service
    except ModuleNotFoundError as error:
        raise UserError(f"memo serve needs {error.name}: pip install 'memo-lightning[serve]'") from None
    if not config.checkpoint:
        raise UserError(
            "checkpoint=null: must be the folder of a run, a checkpoint or a package, e.g. checkpoint=runs/NAME"
        )
    for name in ("max_sessions", "max_batch", "threads"):
        require(config[name] >= 1, name, config[name], "at least 1")
    require(config.idle_seconds > 0, "idle_seconds", config.idle_seconds, "greater than 0")
    require(0 <= config.batch_wait_ms <= 1000, "batch_wait_ms", config.batch_wait_ms, "between 0 and 1000")
    token = read_token(config.token)
    with listen(str(config.host), config.port) as listening:
        if token is None and not is_loopback(listening):
            raise UserError(
                f"host={config.host}: other machines can reach it, so a token is required: export "
                f"{TOKEN_VARIABLE}=$(python3 -c 'import secrets; print(secrets.token_urlsafe())')"
            )
        torch.set_num_threads(config.threads)
        agent = load(config.checkpoint, config.device, tracking_uri=config.tracking_uri)
        _bound(agent.policy, config.memory_budget)
        limits = Limits(
            max_sessions=config.max_sessions,
            idle_seconds=config.idle_seconds,
            max_batch=config.max_batch,
            batch_wait_seconds=config.batch_wait_ms / 1000,
            max_bytes=2**16 + _BYTES_PER_NUMBER * n_numbers(agent.observation_space),
        )
        service = Service(agent, limits, deterministic=config.deterministic)
        serve(
            service,
            listening,
            token,
            lambda address: print(f"serving {config.checkpoint} at {address} until Ctrl-C", flush=True),
        )
    unanswered = service.n_pending
    print(f"stopped; {unanswered} steps were not answered" if unanswered else "stopped", file=sys.stderr)


def _bound(policy: MemoryPolicy, memory_budget: int | None) -> None:
    model = policy.sequence_model
    if memory_budget is not None:
        policy.set_memory_budget(memory_budget)
    if model.memory_budget is None and _can_be_bounded(model):
        print(
            f"note: a session's {type(model).__name__} memory grows with its trial; memory_budget=N bounds it",
            file=sys.stderr,
        )


def _can_be_bounded(model: SequenceModel) -> bool:
    try:
        model.check_memory_budget(sys.maxsize)
    except ValueError:
        return False
    return True
