"""Autoencoders of diffusers, tiny: from image, video or sound and back, without drawing from the posterior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genkernel.bench.architectures import Architecture
from genkernel.bench.zoo.tiny import floats, tiny

_KL: dict[str, Any] = dict(
    block_out_channels=(4, 8),
    layers_per_block=1,
    norm_num_groups=2,
    latent_channels=2,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
)
_WAN: dict[str, Any] = dict(
    base_dim=4,
    z_dim=2,
    dim_mult=[1, 2],
    num_res_blocks=1,
    temperal_downsample=[True],
    latents_mean=[0.0] * 2,
    latents_std=[1.0] * 2,
)
_IMAGE: dict[str, Any] = dict(sample=floats(3, 8, 8))
_FILM: dict[str, Any] = dict(sample=floats(3, 5, 8, 8))


def _frames_as_rows(module: Any, sample: Tensor) -> Tensor:
    """``[n, f, c, h, w]`` through a network that takes ``[n · f, c, h, w]`` and the number of frames."""
    frames = sample.shape[1]
    return module(sample.flatten(0, 1), num_frames=frames).sample.unflatten(0, (-1, frames))


def _quantised(module: Any, sample: Tensor) -> Tensor:
    """The losses of the codebook, which are means over the batch, are left out."""
    return module(sample).sample


ARCHITECTURES = [
    tiny("AutoencoderKL", _KL, _IMAGE),
    tiny(
        "AsymmetricAutoencoderKL",
        dict(
            down_block_types=("DownEncoderBlock2D",) * 2,
            down_block_out_channels=(4, 8),
            up_block_types=("UpDecoderBlock2D",) * 2,
            up_block_out_channels=(4, 8),
            norm_num_groups=2,
            latent_channels=2,
        ),
        dict(_IMAGE, mask=lambda n: (floats(1, 8, 8)(n) > 0).to(torch.float64)),
    ),
    tiny(
        "AutoencoderTiny",
        dict(
            encoder_block_out_channels=(4, 4),
            decoder_block_out_channels=(4, 4),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=2,
        ),
        _IMAGE,
        call=lambda module, sample: module.decoder(module.encoder(sample)),  # as a whole it rounds to bytes
    ),
    tiny(
        "AutoencoderDC",
        dict(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
        ),
        dict(sample=floats(3, 16, 16)),
    ),
    tiny(
        "AutoencoderKLTemporalDecoder",
        dict(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            latent_channels=2,
        ),
        dict(sample=floats(2, 3, 8, 8)),
        call=_frames_as_rows,
    ),
    tiny(
        "AutoencoderKLCogVideoX",
        dict(
            block_out_channels=(4, 8),
            down_block_types=("CogVideoXDownBlock3D",) * 2,
            up_block_types=("CogVideoXUpBlock3D",) * 2,
            latent_channels=2,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=2,
        ),
        _FILM,
    ),
    tiny(
        "AutoencoderKLAllegro",
        dict(
            down_block_types=("AllegroDownBlock3D",) * 2,
            up_block_types=("AllegroUpBlock3D",) * 2,
            block_out_channels=(4, 8),
            temporal_downsample_blocks=(True, False),
            temporal_upsample_blocks=(False, True),
            latent_channels=2,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=2,
        ),
        dict(sample=floats(3, 4, 8, 8)),
        call=lambda module, sample: module.decoder(module.encoder(sample)[:, :2]),
    ),
    tiny(
        "AutoencoderKLHunyuanVideo",
        dict(
            latent_channels=2,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            layers_per_block=1,
            norm_num_groups=2,
        ),
        dict(sample=floats(3, 5, 16, 16)),
    ),
    tiny(
        "AutoencoderKLLTXVideo",
        dict(
            latent_channels=4,
            block_out_channels=(4, 4),
            decoder_block_out_channels=(4, 4),
            down_block_types=("LTXVideoDownBlock3D",) * 2,
            layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            spatio_temporal_scaling=(True, False),
            decoder_spatio_temporal_scaling=(True, False),
            decoder_inject_noise=(False, False, False),
            downsample_type=("conv", "conv"),
            upsample_residual=(False, False),
            upsample_factor=(1, 1),
            patch_size=1,
        ),
        _FILM,
    ),
    tiny(
        "AutoencoderKLMagvit",
        dict(
            latent_channels=2,
            block_out_channels=[4, 8],
            down_block_types=["SpatialDownBlock3D", "SpatialTemporalDownBlock3D"],
            up_block_types=["SpatialUpBlock3D", "SpatialTemporalUpBlock3D"],
            layers_per_block=1,
            norm_num_groups=2,
        ),
        _FILM,
    ),
    tiny("AutoencoderKLWan", _WAN, _FILM),
    tiny("AutoencoderKLQwenImage", _WAN, _FILM),
    tiny(
        "AutoencoderOobleck",
        dict(
            encoder_hidden_size=4,
            downsampling_ratios=[2, 4],
            channel_multiples=[1, 2],
            decoder_channels=4,
            decoder_input_channels=2,
        ),
        dict(sample=floats(2, 32)),
    ),
    tiny("VQModel", dict(_KL, num_vq_embeddings=8), _IMAGE, call=_quantised),
]


def architectures() -> list[Architecture]:
    """A bonus: they do not denoise."""
    return ARCHITECTURES
