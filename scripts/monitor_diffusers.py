#!/usr/bin/env python
"""A diffusers training loop with a monitor: made before the loop, called in it.

python scripts/monitor_diffusers.py --out runs/monitor-diffusers
genkernel monitor runs/monitor-diffusers
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    import genkernel as gk
    from genkernel import assets

    args = _parser().parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    images = gk.load_images(assets.path("mnist-16.npz")).images  # [64, 1, 16, 16] in [0, 1]
    widths = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    unet = UNet2DModel(sample_size=16, in_channels=1, out_channels=1, **widths, **blocks)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    ema = EMAModel(unet.parameters(), decay=0.99)

    mon = gk.Monitor(
        unet, scheduler=scheduler, data=images[:8], levels=5, ema=ema, every=args.every, max_overhead=args.overhead,
        sink=args.out / "log.jsonl",
    )  # fmt: skip
    for step in range(args.steps):
        x = images[torch.randint(len(images), (16,))] * 2 - 1
        noise, t = torch.randn_like(x), torch.randint(1000, (len(x),))
        loss = F.mse_loss(unet(scheduler.add_noise(x, noise, t), t).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.step(unet.parameters())
        if alert := mon.step(step, loss, timesteps=t):
            print(f"step {step}: {alert.message}")
    print(f"{len(mon.trace)} readings, {mon.overhead:.1%} of the time, in {args.out / 'log.jsonl'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder of the log")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=25, help="steps between two readings, at least")
    parser.add_argument("--overhead", type=float, default=1.0, help="seconds per second; 0.02 suits long trainings")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
