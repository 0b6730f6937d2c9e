"""All measurements in the order in which they are taken, the most important first."""

from __future__ import annotations

from collections.abc import Iterator

from memo_lightning.benchmarks.gpu import acting, correctness, navigation, training, updates
from memo_lightning.benchmarks.gpu.measure import Measure, Settings
from memo_lightning.benchmarks.gpu.memories import NAMES, QUICK, TINY, WIDTH_256, WIDTH_768
from memo_lightning.benchmarks.gpu.system import card

COLLECTORS = ("single", "multi_sync", "multi_async", "ray")
_POLICY_NEEDS = ("torchrl", "gymnasium")


def plan(settings: Settings) -> list[Measure]:
    """Return all measurements."""
    parts = (_correctness, _updates, _recorded, _acting, _navigation, _training, _profiles)
    return [Measure("card", card), *(measure for part in parts for measure in part(settings))]


def _correctness(settings: Settings) -> Iterator[Measure]:
    for precision in ("float32", "bfloat16", "float16"):
        for length, context, width in ((37, 80, 32), (288, 480, 64)):
            name = f"attention/{precision}/{length}_to_{context}_width_{width}"
            yield Measure(name, correctness.compare_attention, (precision, length, context, width))
    for memory in NAMES:
        for precision in ("float32", "bfloat16"):
            yield Measure(f"correctness/{memory}/{precision}", correctness.compare_memory, (memory, precision))


def _updates(settings: Settings) -> Iterator[Measure]:
    tiny = settings.tiny
    for width, sizes in ((256, WIDTH_256), (768, WIDTH_768)):
        used = TINY if tiny else sizes
        rows, short, long = (2, 32, 64) if tiny else (20, 4096, 32_768)
        arms = (("memo", "memo_reencoding"), used, rows, short, "bfloat16")
        yield Measure(f"update/width_{width}_at_4k", updates.compare_updates, arms)
        arms = (("memo", "full_context"), used, 2, long, "bfloat16")
        yield Measure(f"update/width_{width}_at_32k", updates.compare_updates, arms)
    used, rows, steps = (TINY, 2, 32) if tiny else (WIDTH_768, 20, 4096)
    yield Measure("utilisation/width_768", updates.measure_utilisation, (used, rows, steps))


def _recorded(settings: Settings, compiled: bool = False) -> Iterator[Measure]:
    """Yield updates that are recorded as CUDA graphs; compiling takes long, so those come last."""
    part, needs, seconds = ("recorded_compiled", ("triton",), 150.0) if compiled else ("recorded", (), 60.0)
    for name, sizes, rows, steps in (
        ("quick", QUICK, 16, 200),
        ("width_256_at_4k", WIDTH_256, 20, 4096),
        ("width_256_at_32k", WIDTH_256, 2, 32_768),
        ("width_768_at_4k", WIDTH_768, 20, 4096),
        ("width_768_at_32k", WIDTH_768, 2, 32_768),
    ):
        used, n_rows, n_steps = (TINY, 2, 32) if settings.tiny else (sizes, rows, steps)
        arguments = (used, n_rows, n_steps, "bfloat16", compiled)
        yield Measure(f"{part}/{name}", updates.compare_recorded, arguments, needs, seconds)


def _acting(settings: Settings) -> Iterator[Measure]:
    n_envs, quick, wide, history = (3, TINY, TINY, 20) if settings.tiny else (128, QUICK, WIDTH_256, 1024)
    for memory in ("memo", "full_context", "lstm"):
        arguments = (memory, quick, n_envs, 20 if settings.tiny else 120)
        yield Measure(f"acting/{memory}_width_64", acting.measure_steps, arguments)
    for precision in ("float32", "bfloat16"):
        name, with_precision = f"acting/memo_width_256_{precision}", ("memo", wide, n_envs, history, precision)
        yield Measure(name, acting.measure_steps, with_precision)
    yield Measure("acting/policy_width_64", acting.measure_policy, (quick, n_envs), _POLICY_NEEDS)
    yield Measure("recorded/policy_width_64", acting.measure_policy, (quick, n_envs, False, True), _POLICY_NEEDS)


def _navigation(settings: Settings) -> Iterator[Measure]:
    sizes, rows, steps, chunk = (TINY, 2, 32, 8) if settings.tiny else (WIDTH_256, 20, 4096, 256)
    yield Measure("navigation/features", navigation.measure_features, (sizes, rows, steps))
    for name, n_rows, chunk_steps in (
        ("images_in_chunks", rows, chunk),
        ("images_of_half_the_sequences", rows // 2, None),  # two minibatches, as in experiment=ext_objnav
    ):
        arguments = (sizes, n_rows, steps, chunk_steps)
        yield Measure(f"navigation/{name}", navigation.measure_images, arguments, _POLICY_NEEDS)


def _training(settings: Settings) -> Iterator[Measure]:
    n_envs, n_rollouts, trial = (16, 2, 40) if settings.tiny else (4096, 4, 200)
    many = [f"collector.n_envs={n_envs}", f"total_frames={n_rollouts * n_envs * trial}"]
    yield Measure("training/dark_key_to_door_4096", training.train, (many,), training.NEEDS, seconds=150.0)
    if settings.device == "cuda":
        recorded = [*many, "cuda_graphs=true"]
        yield Measure("recorded/dark_key_to_door_4096", training.train, (recorded,), training.NEEDS, seconds=150.0)
    for collector in COLLECTORS:
        needs = (*training.NEEDS, "ray") if collector == "ray" else training.NEEDS
        overrides = ["debug=smoke", f"collector={collector}"]
        yield Measure(f"training/smoke_{collector}", training.train, (overrides,), needs, seconds=90.0)


def _profiles(settings: Settings) -> Iterator[Measure]:
    """Yield profiles and the gain from compiling; last, because a failure here can take long."""
    used, rows, steps = (TINY, 2, 32) if settings.tiny else (WIDTH_768, 4, 4096)
    compiled = (used, 5 * rows, steps, True)
    yield from _recorded(settings, compiled=True)
    yield Measure("compiled/utilisation_width_768", updates.measure_utilisation, compiled, ("triton",), seconds=150.0)
    yield Measure("profile/update_width_768", updates.profile_update, (used, rows, steps))
    quick, n_envs = (TINY, 3) if settings.tiny else (QUICK, 128)
    yield Measure("profile/policy_width_64", acting.measure_policy, (quick, n_envs, True), _POLICY_NEEDS)
