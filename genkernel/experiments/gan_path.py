"""A GAN's training, recorded by cluster of latents: whose corrections made each cluster's samples?

The run is the one that :func:`genkernel.models.gan_training.train_gan` makes, and the recording is of the generator's
steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genkernel.experiments.recorded_training import (
    UNFINISHED,
    claim_folder,
    finish_training,
    path_numbers,
    resume_training,
    save_training,
)

if TYPE_CHECKING:
    from genkernel.experiments.outcome import Outcome
    from genkernel.models.gans import GANRecipe
    from genkernel.paths import PathDecomposition

QUERIES = 40  # the stream of the latents that are followed, away from those of the training


def record_gan(
    recipe: GANRecipe,
    out: str | Path,
    images: Tensor | None = None,
    *,
    assign: Callable[[Tensor], Any] | None = None,
    clusters: int | None = None,
    queries: int = 20,
    rule: str = "adaptive",
    windows: int = 32,
    save_every: int = 100,
    progress: bool = True,
) -> PathDecomposition:
    """Train a GAN and record what every cluster of latents did to the samples of chosen latents.

    ``out`` gets ``path.npz`` (with the final cluster of every query in ``meta["query_clusters"]``), ``G.safetensors``
    and ``D.safetensors``. ``training.pt`` holds an unfinished run and its recording, which a second call continues.

    Args:
        recipe: data, networks and optimisation.
        out: the folder.
        images: as for :func:`genkernel.models.gan_training.train_gan`.
        assign: images to cluster numbers; the nearest mode of a planar mixture by default.
        clusters: how many there are; by default those that occur.
        queries: how many latents are followed.
        rule, windows: as for :func:`genkernel.record`.
        save_every: generator steps between two saved states.
        progress: show a progress bar.

    Raises:
        InputError: the recipe needs ``assign``, or images that are not there, or ``out`` holds another run
            or a state that cannot be gone on from.
        RecordingError: the recording stopped.
    """
    from safetensors.torch import save
    from tqdm import trange

    from genkernel.bench.record import provenance
    from genkernel.errors import InputError
    from genkernel.gan import Generator
    from genkernel.gan.contributions import cluster_contributions, cluster_groups
    from genkernel.models.gan_losses import LOSSES
    from genkernel.models.gan_training import gan_training
    from genkernel.models.mixtures import MIXTURES
    from genkernel.paths import PathDecomposition, record
    from genkernel.paths.maps import keep_map
    from genkernel.runs import write_atomic

    if assign is None:
        if not recipe.planar:
            raise InputError("a GAN on images needs assign=, which says which cluster an image is in")
        modes = MIXTURES[recipe.data]().modes
        clusters = len(modes)
        assign = lambda x: torch.cdist(x.double().cpu(), modes.double()).argmin(1)  # noqa: E731
    training = gan_training(recipe, images)
    folder = Path(out)
    gen = Generator(training.generator)
    followed = gen.draw(queries, stream=QUERIES)
    identity = {
        "recipe": asdict(recipe),
        "data": training.source.sha256,
        # a function is known by what it says of the untrained samples
        "clusters": [clusters, torch.as_tensor(assign(gen.images(followed))).tolist()],
        "queries": queries,
        "rule": rule,
        "windows": windows,
    }
    claim_folder(folder, identity)
    if (folder / "path.npz").is_file():
        parts = PathDecomposition.load(folder / "path.npz")
        finish_training(folder)  # a run that was stopped right after it had saved them left its state
        return parts
    saved = resume_training(folder, training.parts())
    start, losses_so_far = saved.step, saved.losses
    loss = LOSSES[recipe.loss].generator

    def losses(generator: nn.Module, z: Tensor) -> Tensor:
        return loss(training.discriminator(generator(z))).flatten(1).mean(1)

    with record(
        training.generator,
        training.generator_optimizer,
        losses,
        groups=cluster_groups(gen, assign),
        queries=followed,
        query_call=gen.tangent.call,
        rule=rule,
        windows=windows,
        modules=[training.discriminator],
    ) as path:
        if saved.recording is not None:
            path.load_state_dict(saved.recording)
        training.before_generator_step = path.batch
        for step in trange(start, recipe.steps, initial=start, total=recipe.steps, disable=not progress, desc="train"):
            losses_so_far.append(training.step(step)[1])
            path.require_going()
            if (step + 1) % save_every == 0 and step + 1 < recipe.steps:
                save_training(folder / UNFINISHED, training.parts(), step + 1, losses_so_far, path.state_dict())
    parts = path.contributions()
    parts.meta["provenance"] = provenance(torch.device("cpu"))
    final = assign(gen.images(followed))
    parts.meta["query_clusters"] = torch.as_tensor(final).tolist()
    seen = [source for source, is_data in zip(parts.sources, parts.data, strict=True) if is_data]
    count = clusters if clusters is not None else 1 + max(map(int, [*seen, *parts.meta["query_clusters"]]))
    word = "mode" if recipe.planar else "class"
    keep_map(parts, cluster_contributions(parts, final, [f"{word} {i}" for i in range(count)]))
    for name, network in (("G", training.generator), ("D", training.discriminator)):
        tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        write_atomic(folder / f"{name}.safetensors", save(tensors))
    parts.save(folder / "path.npz")
    finish_training(folder)
    return parts


def cluster_outcome(parts: PathDecomposition, settings: dict[str, Any]) -> Outcome:
    """What a recorded GAN says about its clusters, as claims, tables and figures.

    Args:
        parts: of :func:`record_gan`.
        settings: of the run, such as its ``identity.json``.
    """
    from genkernel.experiments.outcome import Claim, Outcome, Table, adds_up
    from genkernel.gan.contributions import cluster_contributions
    from genkernel.plots.group_maps import group_map_figures
    from genkernel.runs import json_ready

    found = cluster_contributions(parts, parts.meta["query_clusters"], parts.meta["map"]["names"])
    size = len(found.names)
    foreign, expected = float(found.foreign_share[0]), found.foreign_expected
    claims = [
        Claim(
            "the change of every sample is the sum of what the clusters did to it (Cor. 4.2 of Guo, He, Morel; gap at "
            "most 1 %, partly: 5 %)",
            f"gap {parts.gap_rel:.2%} of the largest change after {parts.edges[-1]:,} generator steps",
            adds_up(parts.gap_rel),
        ),
        Claim(
            "corrections at one cluster spread over the samples of all (global coupling)",
            f"{foreign:.0%} of what was at work on a sample came from other clusters; {expected:.0%} would if work "
            "were spread as the latents are",
            "yes" if foreign > 0.8 * expected else "partly" if foreign > 0.5 * expected else "no",
        ),
        Claim(
            "a few clusters drive the training",
            f"{found.effective_clusters[0]:.1f} of {size} clusters drive it (by gross parts); the latents are spread "
            f"over {(1 - found.occupancy_dominance) * size:.1f}",
            "yes" if found.effective_clusters[0] < 0.5 * size else "no",
        ),
    ]
    rows = zip(found.stretches, found.effective_clusters.tolist(), found.foreign_share.tolist(), strict=True)
    shares = Table(
        "By stretch of the training",
        ("generator steps", "effective number of driving clusters", "foreign share"),
        [(f"{a:,} to {b:,}", n, share) for (a, b), n, share in rows],
    )
    clusters = Table(
        "By cluster, over the whole training",
        ("cluster", "share of the latents", "share of gross parts"),
        list(zip(found.names, found.occupancy.tolist(), found.gross_share[0].tolist(), strict=True)),
    )
    sizes = Table(
        "All sources (mean over queries)",
        ("source", "net", "gross"),
        [
            (str(source), float(net), float(gross))
            for source, net, gross in zip(
                parts.sources, parts.net_size().mean(1), parts.gross_size().mean(1), strict=True
            )
        ],
    )
    final = torch.tensor(parts.meta["query_clusters"])
    numbers = {**path_numbers(parts, final, found.names), "sources": parts.sources, "maps": json_ready(found)}
    figures = {name: draw() for name, draw in group_map_figures(parts).items()}
    return Outcome("gan-path", settings, claims, [shares, clusters, sizes], figures, numbers)
