#!/usr/bin/env python
"""A GAN in Lightning, with two optimizers stepped by hand, and a monitor as a callback.

python scripts/monitor_lightning_gan.py --out runs/monitor-lightning
genkernel monitor runs/monitor-lightning
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> None:
    import lightning as L
    import torch
    import torch.nn.functional as F
    from lightning.pytorch.loggers import CSVLogger

    import genkernel as gk
    from genkernel import assets
    from genkernel.models.gans import DCGANDiscriminator, DCGANGenerator
    from genkernel.monitor.lightning import MonitorCallback

    args = _parser().parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    images = gk.load_images(assets.path("mnist-16.npz")).images * 2 - 1

    class GAN(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator = DCGANGenerator(size=16, latent=args.latent, width=16)
            self.discriminator = DCGANDiscriminator(size=16, width=16)

        def training_step(self, batch: Any, index: int) -> None:
            (real,) = batch
            optimizers: Any = self.optimizers()
            of_generator, of_discriminator = optimizers
            fake = self.generator(torch.randn(len(real), args.latent, 1, 1, device=self.device))
            of_discriminator.zero_grad()
            told = F.softplus(-self.discriminator(real)) + F.softplus(self.discriminator(fake.detach()))
            self.manual_backward(told.mean())
            of_discriminator.step()
            of_generator.zero_grad()
            self.manual_backward(F.softplus(-self.discriminator(fake)).mean())
            of_generator.step()

        def configure_optimizers(self) -> Any:
            parts = (self.generator, self.discriminator)
            return [torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in parts]

    def watch(module: GAN) -> gk.Monitor:
        shape = (args.latent, 1, 1)
        return gk.Monitor(
            module.generator, module.discriminator, latent_shape=shape, latents=32, real=images, every=args.every,
            max_overhead=args.overhead, sink=args.out / "log.jsonl",
        )  # fmt: skip

    L.seed_everything(args.seed, verbose=False)
    callback = MonitorCallback(watch, on_alert=lambda alert: print(f"step {alert.step}: {alert.message}"))
    data = torch.utils.data.TensorDataset(images)
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=-(-args.steps // len(loader)), callbacks=[callback],
        logger=CSVLogger(args.out), log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(GAN(), loader)
    mon = callback.monitor
    assert isinstance(mon, gk.Monitor)
    print(f"{len(mon.trace)} readings, {mon.overhead:.1%} of the time, in {args.out / 'log.jsonl'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder of the log")
    parser.add_argument("--steps", type=int, default=300, help="batches, to the end of an epoch")
    parser.add_argument("--every", type=int, default=50, help="batches between two readings, at least")
    parser.add_argument("--latent", type=int, default=32, help="dimension of the latents")
    parser.add_argument("--overhead", type=float, default=1.0, help="seconds per second; 0.02 suits long trainings")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
