"""What is trained in the study of diffusion beside GANs, and its sizes, full and quick."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS, MODES, SECTORS = "noise levels", "modes", "latent sectors"
DENOISER, GAN, REGRESSION, COLLAPSING = "denoiser", "GAN", "regression", "collapsing GAN"

#: (model, blocks) of every recording
RECORDINGS = (
    (DENOISER, LEVELS),
    (DENOISER, MODES),
    (GAN, SECTORS),
    (GAN, MODES),
    (REGRESSION, SECTORS),
    (REGRESSION, MODES),
    (COLLAPSING, SECTORS),
)
#: whose single steps are also taken as Adam takes them and in small batches: what the paper compares
STEPPED = ((DENOISER, LEVELS), (GAN, SECTORS))
#: single steps of a trained or untrained network: name → with Adam, in small batches
STEPS = {
    "plain": (False, False),
    "plain, small batches": (False, True),
    "Adam": (True, False),
    "Adam, small batches": (True, True),
}


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        seeds: independent trainings of every model.
        blocks: M noise levels, modes of the ring, and sectors of the latents alike; even.
        std: of the modes (radius 2).
        steps, batch: of every training; of the GAN, generator steps.
        lr: of Adam, for all models, falling linearly to zero over the second half.
        width, depth: of the generator's hidden layers, and their number.
        told_width: of the denoiser, so that both have about as many parameters.
        dim, timesteps: of the denoiser's sinusoidal embedding and of its linear noise schedule.
        queries: samples of every block whose outputs are followed.
        judged: steps of the discriminator alone against the untrained generator, before one generator step.
        once: samples of single steps; in small batches, ``batch`` each.
    """

    seeds: int = 5
    blocks: int = 8
    std: float = 0.2
    steps: int = 300
    batch: int = 128
    lr: float = 4e-3
    width: int = 64
    depth: int = 3
    told_width: int = 35
    dim: int = 32
    timesteps: int = 1000
    queries: int = 8
    judged: int = 100
    once: int = 1024


QUICK = Setting(seeds=2, steps=24, batch=64, width=24, told_width=13, queries=3, judged=10, once=256)
