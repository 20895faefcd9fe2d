"""A full synthetic DiffusionResult, for tests of plots, reports and the command line."""

from __future__ import annotations

import numpy as np

from genkernel.diffusion.results import (
    Contrast,
    DiffusionResult,
    Interference,
    Interpolation,
    LayerLocality,
    LevelKernel,
    Levels,
    Profile,
    SameLevel,
    Stages,
    Weighting,
    WeightingRow,
)


def fake_levels(count: int = 12) -> Levels:
    """Evenly spaced levels of a variance-preserving schedule with linear betas."""
    timesteps = np.round(np.linspace(0, 999, count))
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[timesteps.astype(int)]
    alpha, sigma = np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod)
    spacing = float(np.diff(timesteps).max())
    return Levels(timesteps, np.log(alpha**2 / sigma**2), alpha, sigma, 1000.0, max(50.0, spacing), True)


def fake_kernel(levels: Levels, scale: float = 2.0, top: float = 0.7, floor: float = 0.1, seed: int = 0) -> LevelKernel:
    """A kernel that decays exponentially in log-SNR."""
    rng = np.random.default_rng(seed)
    size = len(levels.timesteps)
    distance = np.abs(levels.log_snr[:, None] - levels.log_snr[None])
    noise = rng.normal(0, 0.01, (size, size))
    matrix = floor + (top - floor) * np.exp(-distance / scale) + (noise + noise.T) / 2
    stderr = np.full((size, size), 0.02)

    def profile(axis: np.ndarray, unit: str) -> Profile:
        gap = np.abs(axis[:, None] - axis[None])
        width = float(np.median(np.abs(np.diff(axis))))
        bins = np.where(gap > 0, np.maximum(1, np.rint(gap / width)), 0).astype(int)
        present = np.unique(bins)
        lag = np.array([gap[bins == b].mean() for b in present])
        mean = np.array([matrix[bins == b].mean() for b in present])
        pairs = np.array([(bins == b).sum() * 56 for b in present])
        half = float(np.interp((mean[0] + floor) / 2, mean[::-1], lag[::-1]))
        return Profile(lag, mean, np.full(len(lag), 0.02), pairs, unit, floor, half, 0.01, half)

    window = np.abs(levels.timesteps[:, None] - levels.timesteps[None]) <= levels.window_timesteps
    mass = np.maximum(matrix, 0)
    share, expected = (mass * window).sum(1) / mass.sum(1), window.mean(1)
    rows = (share - expected) / (1 - expected)
    index = float(rows.mean())
    widths_t: list[float | None] = [float(40 + 12 * i) for i in range(size)]
    widths_s: list[float | None] = [float(scale * 0.7)] * size
    widths_t[-1] = widths_s[-1] = None
    return LevelKernel(
        matrix=matrix,
        stderr=stderr,
        index=index,
        index_stderr=0.015,
        floor=floor,
        by_timestep=profile(levels.timesteps, "timesteps"),
        by_log_snr=profile(levels.log_snr, "log_snr"),
        half_width_timesteps=widths_t,
        half_width_log_snr=widths_s,
        signed=bool((matrix < -2 * stderr).any()),
        description="different images, independent noise",
        images=8,
        stderr_images=stderr * 0.9,
        stderr_probes=stderr * 0.4,
        index_stderr_images=0.014,
        index_stderr_probes=0.005,
        index_low=index - 0.03,
        index_high=index + 0.03,
        index_rows=rows,
        centred_index=index + 0.1,
        centred_index_stderr=0.02,
    )


def fake_interference(levels: Levels, preconditioned: bool = True) -> Interference:
    size = len(levels.timesteps)
    distance = np.abs(levels.log_snr[:, None] - levels.log_snr[None])
    matrix = 1.3 * np.exp(-distance / 3) - 0.3
    np.fill_diagonal(matrix, 1.0)
    stderr = np.full((size, size), 0.05)
    norms = np.linspace(2.0, 0.3, size)
    products = matrix * norms[:, None] * norms[None]
    conflicting = [
        (a, b, float(matrix[a, b]), 0.05) for a in range(size) for b in range(a + 1, size) if matrix[a, b] < -0.1
    ]
    disjoint = matrix.copy()
    disjoint[0], disjoint[:, 0] = np.nan, np.nan
    return Interference(
        matrix=matrix,
        stderr=stderr,
        conflicting=conflicting,
        inner_products=products,
        preconditioned=fake_interference(levels, preconditioned=False) if preconditioned else None,
        level_gradient_norm=norms,
        inner_products_stderr=0.05 * norms[:, None] * norms[None],
        matrix_disjoint=disjoint,
        stderr_disjoint=stderr,
        expected_false_conflicts=0.0228 * size * (size - 1) / 2,
        preconditioner="Adam, diagonal" if not preconditioned else "none",
    )


def fake_result(count: int = 12, controls: bool = True) -> DiffusionResult:
    """Every field filled, ``count`` levels; deterministic."""
    levels = fake_levels(count)
    locality = fake_kernel(levels)
    loss = np.linspace(0.4, 0.01, count)
    snr = np.exp(levels.log_snr)
    weights = {"uniform": np.ones(count), "min-SNR-5": np.minimum(snr, 5) / snr, "P2": 1 / (1 + snr)}
    change = {name: -w / w.sum() * np.linspace(1, 0.2, count) for name, w in weights.items()}
    stderr = {name: np.full(count, 0.01) for name in weights}
    rows = [
        WeightingRow(
            name, levels.timesteps[i], levels.log_snr[i], w[i], loss[i], change[name][i], 0.01, change[name][i], 0.01
        )
        for name, w in weights.items()
        for i in range(count)
    ]
    labels = (np.arange(count) * 3 // count).astype(np.int64)
    cuts = np.flatnonzero(np.diff(labels))
    phase = levels.timesteps[:, None] - levels.timesteps[None]
    return DiffusionResult(
        levels=levels,
        loss_mean=loss,
        loss_stderr=loss * 0.1,
        locality=locality,
        unnormalized=fake_kernel(levels, scale=1.5, top=9.0, floor=0.5, seed=1),
        layers=[
            LayerLocality("time_embedding.linear_1", 0.3, 4160, 0.35, 0.02),
            LayerLocality("time_embedding.linear_2", 0.2, 4160, 0.3, 0.02),
            LayerLocality("down_blocks.0.resnets.0.conv1", 0.15, 9248, 0.12, 0.02),
            LayerLocality("mid_block.resnets.0.conv1", 0.05, 36928, 0.1, 0.03),
            LayerLocality("conv_out", 0.3, 289, 0.02, 0.01),
        ],
        controls={
            "same_image_same_noise": fake_kernel(levels, top=1.0, floor=0.2, seed=2),
            "same_image_other_noise": fake_kernel(levels, top=0.8, floor=0.15, seed=3),
            "other_image_same_level": SameLevel(
                levels.timesteps, np.diag(locality.matrix).copy(), np.diag(locality.stderr).copy(), 0.7, 0.02
            ),
            "embedding_only": fake_kernel(levels, top=0.68, seed=4),
            "input_only": fake_kernel(levels, scale=50.0, top=0.65, floor=0.6, seed=5),
            "shuffled_levels": fake_kernel(levels, scale=50.0, top=0.3, floor=0.28, seed=6),
            "untrained": fake_kernel(levels, scale=3.0, seed=7),
        }
        if controls
        else {},
        embedding_cosine=0.4 + 0.6 * np.exp(-np.abs(phase) / 100),
        time_mlp_cosine=np.cos(phase / 400),
        interpolation=Interpolation(
            from_level=levels.timesteps[count // 2],
            to_level=levels.timesteps[-1],
            weights=np.linspace(0, 1, 5),
            matrix=np.exp(-np.abs(np.subtract.outer(np.linspace(0, 1, 5), np.linspace(0, 1, 5)))),
            stderr=np.full((5, 5), 0.02),
            swap_labels=["x from, e from", "x from, e to", "x to, e from", "x to, e to"],
            swapped=np.array([[0.7, 0.2, 0.6, 0.2], [0.2, 0.7, 0.2, 0.6], [0.6, 0.2, 0.7, 0.2], [0.2, 0.6, 0.2, 0.7]]),
            swapped_stderr=np.full((4, 4), 0.03),
        )
        if controls
        else None,
        interference=fake_interference(levels),
        weighting=Weighting(
            weights, change, stderr, change, stderr, rows, {"uniform": 1.0, "min-SNR-5": 0.6, "P2": 0.5}, "fake"
        ),
        stages=Stages(
            labels=labels,
            boundaries=[float((levels.timesteps[c] + levels.timesteps[c + 1]) / 2) for c in cuts],
            k=3,
            criterion="fake criterion",
            scores={1: 0.0, 2: 0.4, 3: 0.5, 4: 0.3},
            boundaries_log_snr=[float((levels.log_snr[c] + levels.log_snr[c + 1]) / 2) for c in cuts],
            stability=[0.9, 0.6],
            null_scores={1: 0.0, 2: 0.3, 3: 0.3, 4: 0.3},
            margin_stderr={2: 0.05, 3: 0.05, 4: 0.05},
            chosen_in_bootstrap={2: 0.2, 3: 0.7, 4: 0.1},
        ),
        meta={
            "images": 8,
            "probes": 8,
            "seed": 0,
            "dtype": "float32",
            "device": "cpu",
            "model": "UNet2DModel",
            "parameters": 54785,
            "prediction_type": "epsilon",
            "control_images": 8,
            "bootstrap": 200,
            "notes": ["arrived in train mode; evaluated in eval mode"],
            "coverage": {"uses": 68, "generic": []},
            "seconds": {"kernel": 12.3, "controls": 40.0, "interference": 3.0},
            "reading": [
                "The cosine kernel's locality index is 0.30 ± 0.02.",
                "With the input held fixed and only the timestep embedding varied the index is 0.29 ± 0.02.",
            ],
        },
        contrasts={"trained minus untrained": Contrast("trained minus untrained", 0.05, 0.02, 0.01, 0.09)},
        embedding_spearman=(0.8, 0.05),
        time_mlp_spearman=(0.9, 0.03),
    )
