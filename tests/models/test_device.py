"""Torch's settings for a device."""

import pytest
import torch

from memo_lightning.models.device import prepare_device


@pytest.mark.parametrize(("device", "enabled"), [("cuda", False), ("cpu", True)])
def test_cudnns_attention_is_off_on_cuda(device, enabled):
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        prepare_device(torch.device(device))
        assert torch.backends.cuda.cudnn_sdp_enabled() is enabled
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
