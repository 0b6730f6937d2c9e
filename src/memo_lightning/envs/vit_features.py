"""Features of a frozen vision transformer in place of images, computed once where the images are made.

VC-1 (arXiv 2303.18240) is such a transformer: a ViT-B/16 whose weights use timm's parameter names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import TensorSpec, Unbounded
from torchrl.envs.transforms import Transform

from memo_lightning.envs.reports import FINAL_OBSERVATION, TRUNCATED
from memo_lightning.errors import UserError, require
from memo_lightning.policies.encoders import OBSERVATION

# Parts of published weights that the features do not need: classifiers, and the decoders of masked autoencoders.
_NOT_USED = ("head.", "decoder", "mask_token")


class VitFeatures(Transform):
    """Transform that replaces an image ``[N, H, W, 3]`` with the transformer's features, float32 ``[N, D]``.

    The images of all environments are encoded together, and the rollout stores D numbers instead of an image. The
    transformer is not trained, and no part of it enters the policy or the checkpoint. The last images of episodes that
    are cut off within a trial are replaced too; where there is none, the features are zero.

    Args:
        weights: file of the weights, ``.safetensors`` or a torch file that loads without pickle.
        model: the model's name in timm.
        options: further arguments of the model.
        image_size: side length that images are scaled to, pixels; a multiple of the model's patch size.
        mean, std: mean and standard deviation that normalise each channel, after scaling to 0..1.
        key: observation key of the image; the key of the features is ``<key>_features``.
        picture_size: the name of ``image_size`` in configurations of older runs.

    Raises:
        UserError: if timm is not installed, the model does not exist, or the weights are missing or do not fit.
    """

    def __init__(
        self,
        *,
        weights: str | None,
        model: str = "vit_base_patch16_224",
        options: dict[str, Any] | None = None,
        image_size: int = 224,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        key: str = "rgb",
        picture_size: int | None = None,
    ) -> None:
        super().__init__()
        self._key, self._features = key, f"{key}_features"
        require(bool(weights), "env.vision.weights", weights, "the path of a .safetensors or torch file")
        self._size = picture_size or image_size
        require(self._size >= 1, "env.vision.image_size", self._size, "at least 1")
        self._network = _load(model, {**(options or {}), "img_size": self._size}, Path(str(weights)))
        self.register_buffer("_mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("_std", torch.tensor(std).view(3, 1, 1))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return features ``[*batch, D]`` of images uint8 ``[*batch, H, W, 3]``."""
        batch = images.shape[:-3]
        pixels = images.flatten(0, -4).permute(0, 3, 1, 2).float() / 255
        size = (self._size, self._size)
        if pixels.shape[-2:] != size:
            pixels = nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        return self._network((pixels - self._mean) / self._std).unflatten(0, batch)

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        features = self.features(next_tensordict.pop((OBSERVATION, self._key)))
        next_tensordict.set((OBSERVATION, self._features), features)
        if FINAL_OBSERVATION in next_tensordict.keys():
            images = next_tensordict.pop((FINAL_OBSERVATION, self._key))
            final, ended = torch.zeros_like(features), next_tensordict.get(TRUNCATED).squeeze(-1)
            if ended.any():
                final[ended] = self.features(images[ended])
            next_tensordict.set((FINAL_OBSERVATION, self._features), final)
        return next_tensordict

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Any) -> TensorSpec:
        """Replace the spec of the image with that of the features."""
        if (OBSERVATION, self._key) not in observation_spec.keys(True):
            images = [
                f"env.vision.key={key}"
                for key, spec in observation_spec[OBSERVATION].items()
                if spec.dtype == torch.uint8 and spec.ndim == len(observation_spec.shape) + 3
            ]
            raise UserError(f"env.vision.key={self._key}: the environment has no such image; use {' or '.join(images)}")
        for kind in (OBSERVATION, FINAL_OBSERVATION):
            if kind in observation_spec.keys():
                spec = observation_spec[kind, self._key]
                del observation_spec[kind, self._key]
                features = Unbounded((*spec.shape[:-3], self._network.num_features), device=spec.device)
                observation_spec[kind, self._features] = features
        return observation_spec


def _load(name: str, options: dict[str, Any], path: Path) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"env/vision=vit: {error.name} is not installed: pip install 'memo-lightning[vit]'") from None
    require(path.is_file(), "env.vision.weights", str(path), "an existing local file; weights are not downloaded")
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise UserError(f"env.vision.model={name}: {error}") from None
    (patch, _), size = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1)), options["img_size"]
    require(size % patch == 0, "env.vision.image_size", size, f"a multiple of {patch}, the patch size of {name}")
    weights = _read(path)
    missing, unexpected = network.load_state_dict(weights, strict=False)
    unexpected = [key for key in unexpected if not key.startswith(_NOT_USED)]
    if missing or unexpected:
        raise UserError(f"env.vision.weights={path}: do not fit {name}; first mismatch: "
                        f"{(missing + unexpected)[0]}")  # fmt: skip
    return network.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the file may be anything
        raise UserError(f"env.vision.weights={path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return weights.get("model", weights)  # as published by masked autoencoders
