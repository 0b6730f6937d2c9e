"""Compiled parts of a memory: which ones, and that they compute the same."""

import copy

import pytest
import torch

from memo_lightning.models import Memoryless, MemoTransformer
from memo_lightning.models.compiled import compile_parts
from memo_lightning.models.feed_forward import FeedForward
from memo_lightning.models.transformer import Block

SIZES = {"d_model": 32, "n_layers": 3, "n_heads": 2, "d_ff": 64, "segment_length": 10, "summary_length": 2}


def compiled_parts(model, device):
    compile_parts(model, torch.device(device))
    modules = list(model.modules())
    mlps = [part for part in modules if isinstance(part, FeedForward) and part._compiled_call_impl]
    return sum(isinstance(part, Block) and part.compiles_updates for part in modules), len(mlps)


@pytest.mark.parametrize(("device", "blocks", "mlps"), [("cpu", 0, 3), ("cuda", 3, 0)])
def test_blocks_are_compiled_on_cuda_and_mlps_elsewhere(device, blocks, mlps):
    assert compiled_parts(MemoTransformer(**SIZES), device) == (blocks, mlps)
    assert compiled_parts(Memoryless(32, 3, 64), device) == (0, 3)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_with_two_programs_for_all_layers_and_lengths():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = MemoTransformer(**SIZES).train()
    compiled = copy.deepcopy(model)
    compile_parts(compiled, torch.device("cuda"))  # the choice for CUDA, on the CPU
    for n_steps, segment_length in ((34, 9), (40, 11)):
        x, weight = torch.randn(3, n_steps, 32), torch.randn(3, n_steps, 32)
        found, expected = ([read(x, None, segment_length)] for read in (compiled, model))
        for outputs, read in ((found, compiled), (expected, model)):
            outputs += torch.autograd.grad((outputs[0] * weight).sum(), list(read.parameters()))
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    with torch.no_grad():
        assert torch.equal(compiled(x, None, 11), model(x, None, 11)), "only passes with gradient are compiled"
