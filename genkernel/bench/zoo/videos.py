"""Transformers of diffusers that denoise videos (some with sound), tiny."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genkernel.bench.architectures import Architecture
from genkernel.bench.zoo.tiny import floats, grid, integers, mask, missing, ones, times, tiny

_VIDEO: dict[str, Any] = dict(hidden_states=floats(4, 2, 4, 4), timestep=times(), encoder_hidden_states=floats(3, 6))
_LATTE: dict[str, Any] = dict(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=1)
_COG: dict[str, Any] = dict(
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=4,
    out_channels=4,
    time_embed_dim=4,
    text_embed_dim=6,
    num_layers=1,
    sample_width=4,
    sample_height=4,
    sample_frames=5,
    patch_size=2,
    temporal_compression_ratio=4,
    max_text_seq_length=3,
)
_COG_INPUTS: dict[str, Any] = dict(_VIDEO, hidden_states=floats(2, 4, 4, 4))
_WAN: dict[str, Any] = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=6,
    freq_dim=8,
    ffn_dim=16,
    num_layers=1,
    rope_max_seq_len=16,
)
_HUNYUAN: dict[str, Any] = dict(
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=10,
    num_layers=1,
    num_single_layers=1,
    num_refiner_layers=1,
    patch_size=1,
    patch_size_t=1,
    guidance_embeds=True,
    text_embed_dim=6,
    pooled_projection_dim=5,
    rope_axes_dim=(2, 4, 4),
)
_HUNYUAN_INPUTS: dict[str, Any] = dict(
    _VIDEO, encoder_attention_mask=mask(3), pooled_projections=floats(5), guidance=times(5.0)
)
_COSMOS: dict[str, Any] = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    text_embed_dim=6,
    adaln_lora_dim=4,
    mlp_ratio=2.0,
    max_size=(4, 8, 8),
)
_KANDINSKY: dict[str, Any] = dict(
    in_visual_dim=4,
    out_visual_dim=4,
    in_text_dim=6,
    in_text_dim2=5,
    time_dim=8,
    model_dim=16,
    ff_dim=24,
    num_text_blocks=1,
    num_visual_blocks=1,
    axes_dims=(2, 2, 4),
)
_LTX: dict[str, Any] = dict(
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=8,
    cross_attention_dim=16,
    num_layers=1,
    caption_channels=6,
)


def _rotation(positions: int, entries: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[positions, entries]``."""
    angles = 0.3 * grid(positions, entries).sum(1).reshape(positions, entries)
    return torch.cos(angles), torch.sin(angles)


def _kandinsky(module: Any, **inputs: Any) -> Any:
    places = tuple(torch.arange(size) for size in (2, 2, 2))
    return module(**inputs, visual_rope_pos=places, text_rope_pos=torch.arange(3))


def _joy_plus(module: Any, hidden_states: Tensor, **inputs: Any) -> Any:
    return module(hidden_states, shape_list=[[(1, 2, 2)]] * len(hidden_states), **inputs)


def _ltx2(module: Any, **inputs: Any) -> Any:
    return module(**inputs, num_frames=2, height=2, width=2, audio_num_frames=4)


ARCHITECTURES = [
    tiny(
        "AllegroTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            cross_attention_dim=24,
            sample_width=4,
            sample_height=4,
            sample_frames=2,
            caption_channels=6,
        ),
        dict(_VIDEO, attention_mask=ones(2, 4, 4), encoder_attention_mask=mask(3)),
        dict(
            image_rotary_emb=(
                (_rotation(2, 4),) * 3,  # of frames, rows and columns
                tuple(grid(2, 2, 2)[:, axis].long()[None] for axis in range(3)),
            )
        ),
    ),
    tiny(
        "LatteTransformer3DModel",
        dict(
            _LATTE,
            cross_attention_dim=16,
            sample_size=4,
            patch_size=2,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            caption_channels=6,
            video_length=2,
            attention_bias=True,
        ),
        _VIDEO,
    ),
    tiny("CogVideoXTransformer3DModel", _COG, _COG_INPUTS),
    tiny(
        "CogVideoXTransformer3DModel 1.5",
        dict(_COG, patch_size_t=2, patch_bias=False, ofs_embed_dim=4, use_rotary_positional_embeddings=True),
        dict(_COG_INPUTS, ofs=times(2.0)),
        dict(
            image_rotary_emb=_rotation(4, 8),
        ),
    ),
    tiny(
        "ConsisIDTransformer3DModel",
        dict(
            _COG,
            is_train_face=True,
            is_kps=False,
            cross_attn_interval=1,
            cross_attn_dim_head=4,
            cross_attn_num_heads=2,
            LFE_id_dim=6,
            LFE_vit_dim=5,
            LFE_depth=5,
            LFE_dim_head=4,
            LFE_num_heads=2,
            LFE_num_id_token=2,
            LFE_num_querie=3,
            LFE_output_dim=10,
            LFE_ff_mult=1,
            LFE_num_scale=5,
        ),
        dict(_COG_INPUTS, id_cond=floats(6), id_vit_hidden=[floats(3, 5)] * 5),
    ),
    tiny("WanTransformer3DModel", _WAN, _VIDEO),
    tiny(
        "WanTransformer3DModel image",
        dict(_WAN, image_dim=5, added_kv_proj_dim=24, pos_embed_seq_len=None),
        dict(_VIDEO, encoder_hidden_states=floats(512, 6), encoder_hidden_states_image=floats(2, 5)),
    ),
    tiny(
        "WanVACETransformer3DModel",
        dict(_WAN, num_layers=2, vace_layers=[0, 1], vace_in_channels=5),
        dict(_VIDEO, control_hidden_states=floats(5, 2, 4, 4)),
        dict(control_hidden_states_scale=torch.ones(2)),
    ),
    tiny(
        "ChronoEditTransformer3DModel",
        dict(_WAN, image_dim=5, added_kv_proj_dim=24),
        dict(_VIDEO, encoder_hidden_states=floats(512, 6), encoder_hidden_states_image=floats(2, 5)),
    ),
    tiny("SkyReelsV2Transformer3DModel", dict(_WAN, inject_sample_info=True), dict(_VIDEO, fps=integers(2))),
    tiny(
        "AnyFlowTransformer3DModel",
        _WAN,
        dict(_VIDEO, hidden_states=floats(2, 4, 4, 4), timestep=times(1000.0, 2), r_timestep=times(1000.0, 2)),
    ),
    tiny("HunyuanVideoTransformer3DModel", _HUNYUAN, _HUNYUAN_INPUTS),
    tiny(
        "HunyuanVideoTransformer3DModel image",
        dict(_HUNYUAN, image_condition_type="token_replace"),
        _HUNYUAN_INPUTS,
    ),
    tiny(
        "HunyuanVideoFramepackTransformer3DModel",
        dict(_HUNYUAN, patch_size=2, has_image_proj=True, image_proj_dim=5, has_clean_x_embedder=True),
        dict(
            _HUNYUAN_INPUTS,
            hidden_states=floats(4, 2, 8, 8),
            image_embeds=floats(2, 5),
            latents_clean=floats(4, 1, 8, 8),
            latents_history_2x=floats(4, 2, 8, 8),
            latents_history_4x=floats(4, 4, 8, 8),
        ),
        dict(
            indices_latents=torch.arange(2),
            indices_latents_clean=torch.arange(1),
            indices_latents_history_2x=torch.arange(2),
            indices_latents_history_4x=torch.arange(4),
        ),
    ),
    tiny(
        "HunyuanVideo15Transformer3DModel",
        dict(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_refiner_layers=1,
            text_embed_dim=6,
            text_embed_2_dim=5,
            image_embed_dim=4,
            rope_axes_dim=(2, 4, 4),
        ),
        dict(
            _VIDEO,
            encoder_attention_mask=mask(3),
            encoder_hidden_states_2=floats(2, 5),
            encoder_attention_mask_2=mask(2),
            image_embeds=floats(2, 4),
        ),
    ),
    tiny(
        "MotifVideoTransformer3DModel",
        dict(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_decoder_layers=0,
            text_embed_dim=6,
            rope_axes_dim=(2, 4, 4),
        ),
        dict(_VIDEO, encoder_attention_mask=mask(3)),
    ),
    tiny(
        "MochiTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            in_channels=4,
            text_embed_dim=8,
            time_embed_dim=4,
            max_sequence_length=3,
        ),
        dict(_VIDEO, encoder_hidden_states=floats(3, 8), encoder_attention_mask=mask(3, torch.bool)),
    ),
    tiny(
        "LTXVideoTransformer3DModel",
        _LTX,
        dict(_VIDEO, hidden_states=floats(8, 4), encoder_attention_mask=mask(3)),
        dict(num_frames=2, height=2, width=2),
    ),
    tiny(
        "LTX2VideoTransformer3DModel",
        dict(
            _LTX,
            audio_in_channels=3,
            audio_out_channels=3,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
        ),
        dict(
            hidden_states=floats(8, 4),
            audio_hidden_states=floats(4, 3),
            encoder_hidden_states=floats(3, 6),
            audio_encoder_hidden_states=floats(3, 6),
            timestep=times(),
            encoder_attention_mask=mask(3),
            audio_encoder_attention_mask=mask(3),
        ),
        call=_ltx2,
    ),
    tiny(
        "CosmosTransformer3DModel",
        dict(_COSMOS, in_channels=4, out_channels=4, num_layers=1),
        _VIDEO,
        dict(fps=16, padding_mask=torch.zeros(1, 1, 4, 4, dtype=torch.float64)),
    ),
    tiny(
        "CosmosControlNetModel",
        dict(_COSMOS, n_controlnet_blocks=1, in_channels=6, latent_channels=6, model_channels=24),
        dict(
            controls_latents=floats(4, 2, 4, 4),
            latents=floats(4, 2, 4, 4),
            timestep=times(),
            encoder_hidden_states=floats(3, 6),
            condition_mask=ones(1, 2, 4, 4),
        ),
        dict(fps=16, padding_mask=torch.zeros(1, 1, 4, 4, dtype=torch.float64)),
    ),
    tiny(
        "EasyAnimateTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            patch_size=2,
            sample_width=4,
            sample_height=4,
            num_layers=1,
            mmdit_layers=1,
            time_embed_dim=4,
            text_embed_dim=6,
            add_norm_text_encoder=True,
        ),
        _VIDEO,
    ),
    tiny(
        "SanaVideoTransformer3DModel",
        dict(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=6,
            sample_size=4,
            rope_max_seq_len=16,
        ),
        dict(_VIDEO, encoder_attention_mask=mask(3)),
    ),
    tiny(
        "Kandinsky5Transformer3DModel",
        _KANDINSKY,
        dict(_VIDEO, hidden_states=floats(2, 4, 4, 4), pooled_projections=floats(5)),
        call=_kandinsky,
    ),
    tiny(
        "Kandinsky6Transformer3DModel",
        dict(_KANDINSKY, in_audio_dim=3, out_audio_dim=3),
        dict(
            _VIDEO,
            hidden_states=floats(2, 4, 4, 9),
            pooled_projections=floats(5),
            audio_hidden_states=floats(4, 3),
        ),
    ),
    tiny(
        "HeliosTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=6,
            freq_dim=8,
            ffn_dim=16,
            num_layers=1,
            rope_dim=(4, 4, 4),
        ),
        _VIDEO,
    ),
    tiny(
        "JoyImageEditTransformer3DModel",
        dict(
            in_channels=4,
            hidden_size=24,
            num_attention_heads=2,
            text_dim=6,
            mlp_width_ratio=2.0,
            num_layers=1,
            rope_dim_list=[4, 4, 4],
        ),
        _VIDEO,
    ),
    tiny(
        "JoyImageEditPlusTransformer3DModel",
        dict(
            in_channels=4,
            hidden_size=24,
            num_attention_heads=2,
            text_dim=6,
            mlp_width_ratio=2.0,
            num_layers=1,
            rope_dim_list=[4, 4, 4],
        ),
        dict(_VIDEO, hidden_states=floats(4, 4, 1, 2, 2), encoder_hidden_states_mask=mask(3)),
        call=_joy_plus,
    ),
    tiny(
        "WanAnimateTransformer3DModel",
        dict(
            _WAN,
            inject_face_latents_blocks=1,
            in_channels=12,
            latent_channels=4,
            image_dim=5,
            added_kv_proj_dim=24,
            motion_encoder_channel_sizes={"4": 4, "8": 4, "16": 4},
            motion_encoder_size=16,
            motion_style_dim=6,
            motion_dim=3,
            motion_encoder_dim=8,
            face_encoder_hidden_dim=8,
            face_encoder_num_heads=2,
            motion_encoder_batch_size=64,
        ),
        dict(
            _VIDEO,
            hidden_states=floats(12, 3, 4, 4),
            encoder_hidden_states=floats(512, 6),
            encoder_hidden_states_image=floats(2, 5),
            pose_hidden_states=floats(4, 2, 4, 4),
            face_pixel_values=floats(3, 8, 16, 16),
        ),
    ),
    missing("Kandinsky6SRTransformer3DModel", "its FlexAttention has no backward pass on a CPU"),
    missing(
        "AnyFlowFARTransformer3DModel",
        "autoregressive over chunks with a cache of keys; AnyFlowTransformer3DModel is here",
    ),
]


def architectures() -> list[Architecture]:
    """In the order of their age, roughly."""
    return ARCHITECTURES
