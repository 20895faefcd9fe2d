"""What the kernels of a result are called on figures and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genkernel.diffusion.results import LevelKernel

if TYPE_CHECKING:
    from genkernel.diffusion.results import DiffusionResult

MAIN = "different_images"

TITLES = {
    MAIN: "Different images",
    "same_image_same_noise": "Same image, same noise",
    "same_image_other_noise": "Same image, other noise",
    "other_image_same_level": "Other image, same level",
    "embedding_only": "Embedding only",
    "input_only": "Input only",
    "shuffled_levels": "Shuffled levels",
    "untrained": "Untrained network",
}

MEANINGS = {
    MAIN: "the kernel itself: pairs of different images with independent noise",
    "same_image_same_noise": "one image and one noise on both sides; only the level differs",
    "same_image_other_noise": "one image on both sides, independent noise",
    "other_image_same_level": "different images at one level: the diagonal of the kernel",
    "embedding_only": "the inputs stay at one middle level, only the timestep embedding varies (different images)",
    "input_only": "the timestep embedding stays at one middle level, only the inputs' level varies (different images)",
    "shuffled_levels": "every image is told its levels in a random order of its own (different images)",
    "untrained": "the same architecture, freshly initialised (different images)",
}


def control_title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " ").capitalize())


def kernels(result: DiffusionResult) -> dict[str, LevelKernel]:
    """The main kernel first, then every control that is a kernel, in the order of ``TITLES``."""
    order = list(TITLES)
    names = sorted(result.controls, key=lambda n: (order.index(n) if n in order else len(order), n))
    controls = {name: result.controls[name] for name in names}
    return {MAIN: result.locality} | {n: c for n, c in controls.items() if isinstance(c, LevelKernel)}
