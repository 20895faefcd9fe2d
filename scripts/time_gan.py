#!/usr/bin/env python
"""Time the analysis of a DCGAN of 64×64 colour images (3.6 million parameters), stage by stage.

python scripts/time_gan.py --threads 2 --json benchmarks/gan-cpu.json
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    import torch

    import genkernel as gk
    from genkernel.models.gans import DCGANDiscriminator, DCGANGenerator
    from genkernel.runs import versions, write_atomic

    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    generator = DCGANGenerator(3, args.size, 100, args.width)
    discriminator = DCGANDiscriminator(3, args.size, args.width)
    real = torch.rand(args.latents, 3, args.size, args.size) * 2 - 1
    with torch.no_grad():  # running statistics of something; how long it takes does not depend on the weights
        for _ in range(8):
            discriminator.train()(generator.train()(torch.randn(16, 100, 1, 1)))
    start = time.perf_counter()
    report = gk.collapse(
        generator.eval(),
        discriminator=discriminator.eval(),
        latent_shape=(100, 1, 1),
        latents=args.latents,
        jacobians=args.jacobians,
        real=real,
        clusters=10,
    )
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "what": f"DCGAN {args.size}×{args.size}, {args.latents} latents, {args.jacobians} Jacobians, 8 probes",
        "parameters": report.result.meta["generator"]["parameters"],
        "threads": args.threads,
        "seconds": time.perf_counter() - start,
        "stages": report.result.meta["seconds"],
        "versions": versions(),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if args.json:
        write_atomic(args.json, text)
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--jacobians", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="of the images")
    parser.add_argument("--width", type=int, default=64, help="of both networks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser


if __name__ == "__main__":
    main()
