#!/usr/bin/env python
"""A DCGAN loop with a monitor that watches the generator and what the discriminator makes of it.

python scripts/monitor_dcgan.py --out runs/monitor-dcgan
genkernel monitor runs/monitor-dcgan
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    import torch
    import torch.nn.functional as F

    import genkernel as gk
    from genkernel import assets
    from genkernel.models.gans import DCGANDiscriminator, DCGANGenerator

    args = _parser().parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    images = gk.load_images(assets.path("mnist-16.npz")).images * 2 - 1  # [64, 1, 16, 16] in [-1, 1]
    generator = DCGANGenerator(size=16, latent=args.latent, width=16)
    discriminator = DCGANDiscriminator(size=16, width=16)
    of_generator = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    of_discriminator = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    mon = gk.Monitor(
        generator, discriminator, latent_shape=(args.latent, 1, 1), latents=32, real=images, every=args.every,
        max_overhead=args.overhead, sink=args.out / "log.jsonl",
    )  # fmt: skip
    for step in range(args.steps):
        real = images[torch.randint(len(images), (16,))]
        fake = generator(torch.randn(len(real), args.latent, 1, 1))
        of_discriminator.zero_grad()
        (F.softplus(-discriminator(real)) + F.softplus(discriminator(fake.detach()))).mean().backward()
        of_discriminator.step()
        of_generator.zero_grad()
        F.softplus(-discriminator(fake)).mean().backward()
        of_generator.step()
        if alert := mon.step(step):
            print(f"step {step}: {alert.message}")
    print(f"{len(mon.trace)} readings, {mon.overhead:.1%} of the time, in {args.out / 'log.jsonl'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder of the log")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=50, help="steps between two readings, at least")
    parser.add_argument("--latent", type=int, default=32, help="dimension of the latents")
    parser.add_argument("--overhead", type=float, default=1.0, help="seconds per second; 0.02 suits long trainings")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
