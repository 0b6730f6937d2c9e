"""How cores and GPUs are divided among workers."""

import pytest

from memo_lightning.errors import UserError
from memo_lightning.training.devices import n_cores, worker_environments


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert worker_environments(1, "cpu", 1) == [{"OMP_NUM_THREADS": str(n_cores())}]
    assert worker_environments(100, "cpu", 1) == [{"OMP_NUM_THREADS": "1"}] * 100
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_environments(2, "cpu", 1) == [{"OMP_NUM_THREADS": "3"}] * 2


def test_gpus_are_handed_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5,7")

    def handed_out(*arguments):
        return [environment["CUDA_VISIBLE_DEVICES"] for environment in worker_environments(*arguments)]

    assert handed_out(4, "gpu", 1) == ["0", "2", "5", "7"]
    assert handed_out(6, "cuda", 1) == ["0", "2", "5", "7", "0", "2"]
    assert handed_out(2, "gpu", 2) == ["0,2", "5,7"]
    with pytest.raises(UserError, match="devices=8: must be at most 4, the number of GPUs"):
        worker_environments(1, "gpu", 8)
