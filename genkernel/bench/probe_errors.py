"""How far kernels from random probes are from exact ones, and what errors they state, on the shipped models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

SCHEMA_VERSION = 1
WHAT = (
    "trace kernels of n samples: normalised kernels from k Rademacher probes beside the exact one, over pairs of "
    "different samples. error: root mean square over pairs and draws of probes; bias: mean over both; stated: root "
    "mean square of the standard errors in the result; plain: without the jackknife over probes"
)


def measure(
    models: tuple[str, ...], counts: tuple[int, ...], draws: int, samples: int, *, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Errors of cosines for several numbers of probes.

    Args:
        models: of :data:`BATCHES`.
        counts: numbers of probes, each 2 at least.
        draws: of the probes.
        samples: of every model.
        say: told which kernel is next.

    Returns:
        A JSON-ready record.
    """
    import genkernel as gk
    from genkernel.bench.record import provenance

    rows = []
    for name in models:
        tangent, batch = BATCHES[name](samples)
        say(f"{name}: the exact kernel")
        exact = gk.kernel(tangent, batch, cotangents=gk.exact_trace(), by=None, progress=False)
        truth = exact.normalized().values.numpy()
        pairs = ~np.eye(len(truth), dtype=bool)
        outputs = int(np.prod(tangent.forward(batch).shape[1:]))
        for k in counts:
            found: dict[str, list[np.ndarray]] = {"error": [], "plain": [], "stated": []}
            for draw in range(draws):
                say(f"{name}: {k} probes, draw {draw + 1} of {draws}")
                kernel = gk.kernel(
                    tangent, batch, cotangents=gk.probes(k, seed=draw), by=None, coverage=exact.coverage, progress=False
                )
                cosine = kernel.normalized()
                assert cosine.stderr is not None
                scale = kernel.values.diagonal().sqrt()
                plain = (kernel.values / torch.outer(scale, scale)).numpy()
                found["error"].append((cosine.values.numpy() - truth)[pairs])
                found["plain"].append((plain - truth)[pairs])
                found["stated"].append(cosine.stderr.numpy()[pairs])
            rms = {what: float(np.sqrt(np.mean(np.square(values)))) for what, values in found.items()}
            bias = {f"{what} bias": float(np.mean(found[what])) for what in ("error", "plain")}
            rows.append({"model": name, "outputs": outputs, "probes": k, **rms, **bias})
        rows[-1]["mean cosine"] = float(truth[pairs].mean())
    return {
        "schema_version": SCHEMA_VERSION, "kind": "probe errors", "what": WHAT, "samples": samples, "draws": draws,
        "rows": rows, "provenance": provenance(torch.device("cpu")),
    }  # fmt: skip


def _denoiser(samples: int) -> tuple[Any, Any]:
    """Noisy images at four levels."""
    import genkernel as gk
    from genkernel.diffusion.noise import keyed_noise_batch

    denoiser = gk.load("ddpm-mnist")
    images = denoiser.prepare(gk.load_images("mnist-16", limit=samples).images)
    levels = [float(denoiser.schedule.levels(4)[4 * i // samples]) for i in range(samples)]
    noise = keyed_noise_batch(images.shape[1:], 0, range(samples), levels, dtype=images.dtype)
    times = torch.tensor(levels)
    return denoiser.tangent, denoiser.batch(denoiser.noisy(images, times, noise), times)


def _generator(samples: int) -> tuple[Any, Any]:
    import genkernel as gk

    generator = gk.load("dcgan-mnist")
    return generator.tangent, generator.draw(samples, seed=0)


def _classifier(samples: int) -> tuple[Any, Any]:
    import genkernel as gk

    classifier = gk.load("mnist-classifier")
    images = gk.load_images("mnist-16", size=32, limit=samples).images
    return classifier.tangent, classifier.prepare(images)


BATCHES: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "ddpm-mnist": _denoiser,
    "dcgan-mnist": _generator,
    "mnist-classifier": _classifier,
}
