"""What is trained in the study of locality in noise level, and its sizes, full and quick."""

from __future__ import annotations

from dataclasses import dataclass

POINTS, DIGITS = "points", "digits"
DOMAINS = (POINTS, DIGITS)
SCHEDULES = ("linear", "cosine")
SINUSOIDAL, FOURIER, CONSTANT, PERMUTED = "sinusoidal", "log-SNR Fourier", "constant", "permuted"
TOLD = (SINUSOIDAL, FOURIER)  # embeddings of networks that are told their noise level as usual
ADAM, SGD = "Adam", "SGD"
FIRST = {ADAM: 0.003, SGD: 0.1}  # learning rates at which the search for the best begins


@dataclass(frozen=True)
class Variant:
    """One way of training a denoiser.

    Attributes:
        embedding: one of :data:`genkernel.experiments.noise_locality.networks.EMBEDDINGS`.
        schedule: ``"linear"`` or ``"cosine"``.
        rescaled: inputs are divided by their standard deviation at their level.
        optimizer: :data:`ADAM` or :data:`SGD` (with momentum).
    """

    embedding: str
    schedule: str
    rescaled: bool = False
    optimizer: str = ADAM

    @property
    def name(self) -> str:
        """In words, for tables."""
        parts = [self.embedding, self.schedule]
        parts += ["inputs rescaled"] if self.rescaled else []
        parts += [self.optimizer] if self.optimizer != ADAM else []
        return ", ".join(parts)


CASES = tuple(Variant(embedding, schedule) for schedule in SCHEDULES for embedding in TOLD)
UNTOLD = {schedule: Variant(CONSTANT, schedule) for schedule in SCHEDULES}
EXCHANGED = Variant(PERMUTED, "linear")
RESCALED = Variant(SINUSOIDAL, "linear", rescaled=True)
UNAWARE = Variant(CONSTANT, "linear", rescaled=True)  # neither the embedding nor the input's scale shows the level
PLAIN_STEPS = Variant(SINUSOIDAL, "linear", optimizer=SGD)
#: what is trained in each domain; the optimizer of Cor. 4.1, and the lack of both cues, where trainings are cheap
VARIANTS = {
    POINTS: (*CASES, *UNTOLD.values(), EXCHANGED, RESCALED, UNAWARE, PLAIN_STEPS),
    DIGITS: (*CASES, *UNTOLD.values(), EXCHANGED, RESCALED),
}


@dataclass(frozen=True)
class Sizes:
    """Of one domain.

    Attributes:
        seeds: independent trainings of every variant.
        steps, batch: of the optimizer.
        width, depth: hidden units or channels; hidden layers or residual blocks.
        train: training samples.
        queries: held-out noisy samples of every level that contributions are followed at.
        images: held-out samples behind every kernel, each at all levels.
        probes: random vectors of the trace kernel; 0 for the exact one.
    """

    seeds: int
    steps: int
    batch: int
    width: int
    depth: int
    train: int
    queries: int
    images: int
    probes: int


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the digits.

    Attributes:
        levels: L buckets of equal width in the timestep; the window of all indices is the bucket and its neighbours.
        timesteps: of the noise schedules.
        dim: of the embeddings.
        momentum: of SGD.
        tuning_seeds: further draws, with which the learning rates are chosen.
        std: of the modes of the ring of eight Gaussians (radius 2) that the points are from.
        pixels: height and width of the digits.
        points, digits: sizes of the two domains.
    """

    levels: int = 8
    timesteps: int = 1000
    dim: int = 32
    momentum: float = 0.9
    tuning_seeds: int = 2
    std: float = 0.05
    pixels: int = 8
    points: Sizes = Sizes(seeds=5, steps=120, batch=128, width=48, depth=3, train=2000, queries=4, images=16, probes=0)
    digits: Sizes = Sizes(seeds=4, steps=60, batch=64, width=16, depth=2, train=2000, queries=4, images=12, probes=8)

    def of(self, domain: str) -> Sizes:
        """Sizes of a domain."""
        return self.points if domain == POINTS else self.digits


QUICK = Setting(
    tuning_seeds=1,
    points=Sizes(seeds=2, steps=10, batch=32, width=16, depth=2, train=200, queries=2, images=3, probes=0),
    digits=Sizes(seeds=1, steps=10, batch=16, width=8, depth=1, train=200, queries=2, images=3, probes=2),
)
