#!/usr/bin/env python
"""Recordings of real trainings against the naive recording: every group's part, on a slice of steps, in float64.

    python scripts/check_paths.py ddpm --data MNIST --download
    python scripts/check_paths.py dcgan --data mnist.npz --out benchmarks/paths-check.json

``ddpm`` trains the network of the shipped DDPM, grouped by noise level; ``dcgan`` the generator of the shipped DCGAN,
grouped by the digit that a classifier sees in its samples, with its discriminator. The naive recording keeps G × P
numbers for every step. What running statistics did is compared with the outputs before and after they moved; what
rounding is said to have done has no other side, and has to be negligible beside the change of the outputs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

LARGEST_DIFFERENCE = 1e-6  # of a source's part, relative to the naive one
LARGEST_ROUNDING = 1e-9  # relative to the largest change of a query


def main(arguments: list[str] | None = None) -> None:
    import torch

    from genkernel.bench.record import provenance
    from genkernel.data import load_images
    from genkernel.paths.sources import ROUNDING
    from genkernel.runs import write_atomic

    args = _parser().parse_args(arguments)
    size = 16 if args.which == "ddpm" else 32
    options = {"size": size, "channels": 1, "seed": 0, "download": args.download}
    images = load_images(args.data, split="train", limit=2000, **options).images
    began = time.perf_counter()
    run = {"ddpm": _ddpm, "dcgan": _dcgan}[args.which]
    parts, expected = run(images.double(), args.steps, args.batch)
    change = float((parts.final - parts.initial).flatten(1).norm(dim=1).max())
    sizes = dict(zip(parts.sources, (parts.net_size().max(1).values / change).tolist(), strict=True))
    rounding = sizes.get(ROUNDING, 0.0)
    if alone := set(parts.sources) ^ {*expected, *({ROUNDING} & set(parts.sources))}:
        sys.exit(f"only one of the recordings has the sources {sorted(map(str, alone))}")
    off = {}
    for source, value in expected.items():
        mine = parts.values[parts.sources.index(source)]
        off[str(source)] = float((mine - value).norm() / value.norm())
    found = {
        "which": args.which,
        "steps": args.steps,
        "batch": args.batch,
        "parameters": parts.meta["parameters"],
        "queries": len(parts.final),
        "sources": [str(source) for source in parts.sources],
        "relative_differences": off,
        "worst": max(off.values()),
        "sizes_over_change": {str(source): size for source, size in sizes.items()},
        "rounding_over_change": rounding,
        "gap_relative": parts.gap_rel,
        "rule": parts.meta["rule"],
        "seconds": time.perf_counter() - began,
        "provenance": provenance(torch.device("cpu")),
    }
    print(json.dumps(found, indent=2))
    if args.out:
        before = json.loads(args.out.read_text()) if args.out.is_file() else {}
        write_atomic(args.out, json.dumps({**before, args.which: found}, indent=2) + "\n")
    if not found["worst"] <= LARGEST_DIFFERENCE:
        sys.exit(f"a source's part differs from the naive one by {found['worst']:.1e}")
    if not rounding <= LARGEST_ROUNDING:
        sys.exit(f"rounding is said to have made {rounding:.1e} of the change")


def _ddpm(images: Any, steps: int, batch: int) -> Any:
    from genkernel.experiments.ddpm_path import level_setup
    from genkernel.models.ddpm import DDPMRecipe, DDPMTraining, ddpm_losses
    from genkernel.paths import record
    from genkernel.paths.reference import NaiveRecording

    training = DDPMTraining(images, DDPMRecipe(batch=batch))
    training.unet.double()
    training.average.double()
    den, levels, queries = level_setup(training.unet, training.scheduler, images[-64:].float(), 8, 1)
    naive = NaiveRecording(training.unet, training.optimizer)
    training.descend(training.batch(0))  # so that momentum is there already
    with record(
        training.unet,
        training.optimizer,
        ddpm_losses,
        groups=levels.groups(),
        queries=queries.batch,
        query_call=den.tangent.call,
        rule="midpoint",
    ) as path:
        for step in range(1, steps + 1):
            made_of = training.batch(step)
            path.batch(made_of, ids=made_of["ids"])
            gradients = naive.gradients(ddpm_losses, made_of, levels.of(made_of["t"]).tolist())
            begun, lr = naive.begin(), training.optimizer.param_groups[0]["lr"]
            naive.take(begun, gradients, training.descend(made_of).clip, lr)
    return path.contributions(), naive.contributions(den.tangent.call, queries.batch, nodes=1)


def _dcgan(images: Any, steps: int, batch: int) -> Any:
    from dataclasses import replace

    import genkernel as gk
    from genkernel import assets
    from genkernel.gan import Generator
    from genkernel.gan.contributions import cluster_groups
    from genkernel.models.gan_losses import LOSSES
    from genkernel.models.gan_training import gan_training
    from genkernel.models.gans import RECIPES
    from genkernel.models.mnist_classifier import load_classifier, probabilities
    from genkernel.paths import record
    from genkernel.paths.reference import NaiveRecording
    from genkernel.paths.sources import BUFFERS

    recipe = replace(RECIPES["mnist"]["healthy"], batch=batch)
    training = gan_training(recipe, images.float())
    network = training.generator.double()
    training.discriminator.double()
    network.load_state_dict({k: v.double() for k, v in gk.load("dcgan-mnist").module.state_dict().items()})
    classifier = load_classifier(assets.path("mnist-classifier"))
    gen = Generator(network)
    followed = gen.draw(6, stream=3)
    loss = LOSSES[recipe.loss].generator

    def losses(generator: Any, z: Any) -> Any:
        return loss(training.discriminator(generator(z))).flatten(1).mean(1)

    groups = cluster_groups(gen, lambda x: probabilities(classifier, x.float()).argmax(1))
    naive = NaiveRecording(network, training.generator_optimizer)
    taken: dict[str, Any] = {}
    with record(
        network,
        training.generator_optimizer,
        losses,
        groups=groups,
        queries=followed,
        query_call=gen.tangent.call,
        rule="midpoint",
        modules=[training.discriminator],
    ) as path:

        def before(z: Any) -> None:
            path.batch(z)
            kept = [(b, b.clone()) for m in (network, training.discriminator) for b in m.buffers()]
            taken["labels"] = groups(None, z).tolist()
            taken["gradients"] = naive.gradients(losses, z, taken["labels"], together=True)
            for buffer, value in kept:
                buffer.copy_(value)

        training.before_generator_step = before
        buffers = {n: b.detach().clone() for n, b in network.named_buffers()}
        for step in range(steps):
            theta, _ = naive.begin()
            training.step(step)
            lr = training.generator_optimizer.param_groups[0]["lr"]
            naive.take((theta, buffers), taken["gradients"], 1.0, lr)
            buffers = {n: b.detach().clone() for n, b in network.named_buffers()}
    expected = naive.contributions(gen.tangent.call, followed, nodes=1)
    return path.contributions(), expected | {BUFFERS: _by_buffers(naive, buffers, gen.tangent.call, followed)}


def _by_buffers(naive: Any, last: dict[str, Any], call: Any, queries: Any) -> Any:
    """What the buffers of a network did: Σ_k f(θ_{k+1}, b_{k+1}) - f(θ_{k+1}, b_k) ``[m, *out]``.

    Args:
        naive: the recording; its network is left in evaluation mode, at the last weights.
        last: the buffers after the last step.
        call: outputs of the network at the queries.
        queries: m of them.
    """
    import torch

    network = naive.module.eval()
    held = dict(network.named_buffers())
    total = 0.0
    with torch.no_grad():
        for step, after in zip(naive.steps, [*(one.buffers for one in naive.steps[1:]), last], strict=True):
            torch.nn.utils.vector_to_parameters(step.after.clone(), naive.parameters)
            for buffers, sign in ((step.buffers, -1), (after, 1)):
                for name, value in buffers.items():
                    held[name].copy_(value)
                total = total + sign * call(network, queries)
    return total


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("ddpm", "dcgan"))
    parser.add_argument("--data", default="MNIST", help="folder of images, .npz, or torchvision data set name")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, help="a JSON file that the figures are added to")
    parser.add_argument("--download", action="store_true", help="let torchvision download the data set")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
