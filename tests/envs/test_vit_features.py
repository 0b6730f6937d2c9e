import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.utils import check_env_specs

from memo_lightning.cli.main import main
from memo_lightning.envs.vit_features import VitFeatures
from memo_lightning.errors import UserError

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}


class Images(EnvBase):
    """Shows random images."""

    def __init__(self, n_envs=3):
        super().__init__(batch_size=torch.Size([n_envs]))
        rgb = Bounded(0, 255, (n_envs, 20, 20, 3), dtype=torch.uint8)
        self.observation_spec = Composite(observation=Composite(rgb=rgb, shape=(n_envs,)), shape=(n_envs,))
        self.action_spec, self.reward_spec = Unbounded((n_envs, 1)), Unbounded((n_envs, 1))

    def _image(self):
        return torch.randint(256, (*self.batch_size, 20, 20, 3), dtype=torch.uint8)

    def _observed(self):
        return {"observation": TensorDict({"rgb": self._image()}, self.batch_size)}

    def _reset(self, tensordict=None, **_):
        return TensorDict(self._observed(), self.batch_size)

    def _step(self, tensordict):
        flag = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        reward = torch.zeros(*self.batch_size, 1)
        return TensorDict({**self._observed(), "reward": reward, "done": flag, "terminated": flag}, self.batch_size)

    def _set_seed(self, seed):
        torch.manual_seed(seed)


def settings(path, **changes):
    return {"weights": str(path), "model": "vit_tiny_patch16_224", "options": TINY, "image_size": 16, **changes}


class TestVit:
    @pytest.fixture(scope="class")
    def timm(self):
        return pytest.importorskip("timm", reason="timm is not installed (extra [vit])")

    @pytest.fixture(scope="class")
    def network(self, timm):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **TINY).eval()

    @pytest.fixture
    def weights(self, network, tmp_path):
        from safetensors.torch import save_file

        save_file(network.state_dict(), tmp_path / "tiny.safetensors")
        return tmp_path / "tiny.safetensors"

    def test_images_become_what_the_network_makes_of_them(self, network, weights):
        env = TransformedEnv(Images(), VitFeatures(**settings(weights)))
        check_env_specs(env)
        env.set_seed(1)
        rollout = env.rollout(2)
        assert set(rollout["observation"].keys()) == {"rgb_features"}
        assert rollout["observation", "rgb_features"].shape == (3, 2, 24)

        torch.manual_seed(1)
        image = Images()._image().permute(0, 3, 1, 2) / 255
        small = torch.nn.functional.interpolate(image, (16, 16), mode="bilinear", antialias=True)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        with torch.no_grad():
            expected = network((small - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(rollout["observation", "rgb_features"][:, 0], expected)

    def test_weights_as_masked_autoencoders_publish_them_give_the_same_features(self, network, weights, tmp_path):
        published = {**network.state_dict(), "mask_token": torch.zeros(1), "decoder_embed.weight": torch.zeros(2)}
        torch.save({"model": published}, tmp_path / "mae.pth")
        images = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8)
        a, b = (VitFeatures(**settings(path)) for path in (weights, tmp_path / "mae.pth"))
        torch.testing.assert_close(a.features(images), b.features(images))

    def test_nothing_of_it_is_trained(self, weights):
        assert not any(parameter.requires_grad for parameter in VitFeatures(**settings(weights)).parameters())

    def test_it_trains_with_houses(self, weights, tmp_path):
        small = ["n_houses=1", "n_placements=2", "min_rooms=2", "max_rooms=2", "n_types=3", "n_objects=3"]
        vision = {"weights": weights, "model": "vit_tiny_patch16_224", "image_size": 16}
        arguments = [
            "env=ext_objnav", "env/vision=vit", "env.sensors=[rgb]", "env.trial_length=8", "env.episode_length=4",
            *(f"env.dataset.{option}" for option in small),
            *(f"env.vision.{name}={value}" for name, value in vision.items()),
            *(f"env.vision.options.{name}={value}" for name, value in TINY.items()),
            "collector.n_envs=2", "algorithm.n_minibatches=1", "total_frames=16", "logger=none",
            "model.segment_length=4", f"run_dir={tmp_path / 'run'}",
        ]  # fmt: skip
        assert main(["train", *arguments]) == 0
        checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        assert not any("network" in name for name in checkpoint["state_dict"])

    @pytest.mark.parametrize(
        ("write", "complaint"),
        [
            (lambda path, network: None, "must be an existing local file; weights are not downloaded"),
            (lambda path, network: path.write_bytes(b"no weights"), "cannot be read"),
            (lambda path, network: torch.save({"a": torch.zeros(1)}, path), "not those of vit_tiny_patch16_224"),
            (lambda path, network: torch.save(network, path), "cannot be read"),
        ],
    )
    def test_weights_that_cannot_be_used_are_named(self, network, tmp_path, write, complaint):
        path = tmp_path / "weights.pth"
        write(path, network)
        with pytest.raises(UserError, match=complaint):
            VitFeatures(**settings(path))

    def test_a_model_that_timm_does_not_have_is_named(self, weights):
        with pytest.raises(UserError, match=r"env.vision.model=vit_huge_of_mine"):
            VitFeatures(**settings(weights, model="vit_huge_of_mine"))

    @pytest.mark.parametrize(
        ("size", "allowed"), [(20, "a multiple of 8, the patch size of vit_tiny"), (0, "at least")]
    )
    def test_images_that_do_not_split_into_patches_are_refused(self, weights, size, allowed):
        with pytest.raises(UserError, match=rf"^env.vision.image_size={size}: must be {allowed}"):
            VitFeatures(**settings(weights, image_size=size))

    def test_configurations_of_older_runs_can_be_read(self, weights):
        old = {name: value for name, value in settings(weights).items() if name != "image_size"}
        images = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8)
        a, b = VitFeatures(**settings(weights)), VitFeatures(**old, picture_size=16)
        torch.testing.assert_close(a.features(images), b.features(images))


def test_weights_must_be_given():
    with pytest.raises(UserError, match=r"env.vision.weights=None: must be the path"):
        VitFeatures(weights=None)
