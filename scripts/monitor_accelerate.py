#!/usr/bin/env python
"""A DDPM under Accelerate, in bf16 and with gradient accumulation, watched by a monitor.

accelerate launch scripts/monitor_accelerate.py --out runs/monitor-accelerate
genkernel monitor runs/monitor-accelerate
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, UNet2DModel

    import genkernel as gk
    from genkernel import assets

    args = _parser().parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=args.cpu, mixed_precision=args.precision, gradient_accumulation_steps=args.accumulate)
    torch.manual_seed(args.seed)
    images = gk.load_images(assets.path("mnist-16.npz")).images
    widths = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    model = UNet2DModel(sample_size=16, in_channels=1, out_channels=1, **widths, **blocks)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=16, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    # on every process, with the model as prepare() returned it: rank 0 reads, in the precision of the weights
    mon = gk.Monitor(
        model, scheduler=scheduler, data=images[:8], levels=5, every=args.every, max_overhead=args.overhead,
        sink=args.out / "log.jsonl",
    )  # fmt: skip
    step = 0
    while step < args.steps:
        for (x,) in loader:
            with accelerator.accumulate(model):
                noise, t = torch.randn_like(x), torch.randint(1000, (len(x),), device=x.device)
                loss = F.mse_loss(model(scheduler.add_noise(x * 2 - 1, noise, t), t).sample, noise)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:  # the optimizer has made a step
                step += 1
                if alert := mon.step(step, loss, timesteps=t):
                    print(f"step {step}: {alert.message}")
    if accelerator.is_main_process:
        print(f"{len(mon.trace)} readings, {mon.overhead:.1%} of the time, in {args.out / 'log.jsonl'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder of the log")
    parser.add_argument("--steps", type=int, default=100, help="of the optimizer")
    parser.add_argument("--every", type=int, default=25, help="steps between two readings, at least")
    parser.add_argument("--accumulate", type=int, default=2, help="batches of a step")
    parser.add_argument("--precision", default="bf16", choices=("no", "fp16", "bf16"))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--overhead", type=float, default=1.0, help="seconds per second; 0.02 suits long trainings")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
