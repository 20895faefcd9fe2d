"""Transformers of diffusers that denoise images, audio and embeddings, tiny, and the ControlNets beside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genkernel.bench.architectures import Architecture
from genkernel.bench.zoo.tiny import floats, grid, integers, mask, missing, ones, times, tiny

_DIT: dict[str, Any] = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2)
# rotary embeddings over (index, row, column): 4 + 4 + 8 = 16 entries of a head
_ROPE: dict[str, Any] = dict(num_attention_heads=2, attention_head_dim=16, axes_dims_rope=(4, 4, 8))
_FLUX: dict[str, Any] = dict(_ROPE, in_channels=4, num_layers=1, num_single_layers=1, joint_attention_dim=6)
_FLUX_INPUTS: dict[str, Any] = dict(hidden_states=floats(4, 4), encoder_hidden_states=floats(3, 6), timestep=times(1.0))
_FLUX_IDS: dict[str, Any] = dict(img_ids=grid(1, 2, 2), txt_ids=torch.zeros(3, 3, dtype=torch.float64))
_IDS4: dict[str, Any] = dict(img_ids=grid(1, 2, 2, 1), txt_ids=grid(1, 1, 1, 3))
_LATENT: dict[str, Any] = dict(hidden_states=floats(4, 8, 8), timestep=times(), encoder_hidden_states=floats(3, 6))
_SD3: dict[str, Any] = dict(
    _DIT,
    sample_size=8,
    in_channels=4,
    out_channels=4,
    joint_attention_dim=6,
    caption_projection_dim=16,
    pooled_projection_dim=5,
    pos_embed_max_size=8,
)
_SANA: dict[str, Any] = dict(
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=8,
    num_layers=2,
    num_cross_attention_heads=2,
    cross_attention_head_dim=8,
    cross_attention_dim=16,
    caption_channels=6,
    sample_size=4,
)
_HUNYUAN_DIT: dict[str, Any] = dict(
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=4,
    patch_size=2,
    sample_size=8,
    hidden_size=16,
    cross_attention_dim=6,
    cross_attention_dim_t5=8,
    pooled_projection_dim=4,
    text_len=3,
    text_len_t5=2,
)
_HUNYUAN_DIT_INPUTS: dict[str, Any] = dict(
    hidden_states=floats(4, 8, 8),
    timestep=times(),
    encoder_hidden_states=floats(3, 6),
    text_embedding_mask=mask(3),
    encoder_hidden_states_t5=floats(2, 8),
    text_embedding_mask_t5=mask(2),
    image_meta_size=integers(100, 6),
    style=integers(1),
)
_ROTATION = (torch.cos(grid(16, 8).sum(1).reshape(16, 8)), torch.sin(grid(16, 8).sum(1).reshape(16, 8)))
_ANGLES = 0.1 * grid(8, 8, 4).sum(1).reshape(8, 8, 4)
_FEW_ANGLES = 0.3 * grid(5, 2).sum(1).reshape(5, 2)
_COMPLEX_ROTATION = torch.polar(torch.ones_like(_ANGLES), _ANGLES)
_COGVIEW: dict[str, Any] = dict(
    _DIT,
    in_channels=4,
    out_channels=4,
    text_embed_dim=6,
    time_embed_dim=8,
    condition_dim=4,
    pos_embed_max_size=8,
    sample_size=8,
)
_SIZES: dict[str, Any] = dict(
    original_size=integers(100, 2),
    target_size=integers(90, 2),
    crop_coords=integers(80, 2),
)
_QWEN: dict[str, Any] = dict(_ROPE, patch_size=2, in_channels=16, out_channels=4, num_layers=1, joint_attention_dim=6)


def _qwen(module: Any, hidden_states: Tensor, **inputs: Any) -> Any:
    return module(hidden_states, img_shapes=[[(1, 2, 2)]] * len(hidden_states), **inputs)


def _one_step_for_all(module: Any, hidden_states: Tensor) -> Any:
    """Its norms split the embedding of the step along axis 0, so that a batch can have only one."""
    return module(hidden_states, timestep=torch.full((), 3))


def _z_image(module: Any, x: Tensor, t: Tensor, cap_feats: Tensor, **inputs: Any) -> Any:
    """Samples come as lists, one tensor each."""
    out = module(list(x), t, list(cap_feats), **inputs)
    return torch.stack(list(out.sample if hasattr(out, "sample") else out[0]))


def _ideogram(module: Any, encoder_hidden_states: Tensor, **inputs: Any) -> Any:
    """Three tokens of text, then four of the image, in one sequence."""
    n = len(encoder_hidden_states)
    return module(
        encoder_hidden_states=encoder_hidden_states,
        position_ids=grid(1, 1, 7).long().repeat(n, 1, 1),
        segment_ids=torch.zeros(n, 7, dtype=torch.long),
        indicator=torch.tensor([3, 3, 3, 2, 2, 2, 2]).repeat(n, 1),
        **inputs,
    )


def _qwen21(module: Any, hidden_states: Tensor, **inputs: Any) -> Any:
    """Three tokens of text, then one slot of four tokens of the image."""
    n = len(hidden_states)
    slots = torch.tensor([False, False, False, True]).repeat(n, 1)
    return module(hidden_states, img_shapes=[[(1, 2, 2)]] * n, img_mask=slots, **inputs)


def _omnigen(module: Any, hidden_states: Tensor, timestep: Tensor, input_ids: Tensor) -> Any:
    n, length = len(hidden_states), input_ids.shape[1] + 1 + 4
    return module(
        hidden_states,
        timestep,
        input_ids=input_ids,
        input_img_latents=[],
        input_image_sizes={},
        attention_mask=hidden_states.new_ones(n, length, length),
        position_ids=torch.arange(length).repeat(n, 1),
    )


ARCHITECTURES = [
    tiny(
        "DiTTransformer2DModel",
        dict(_DIT, in_channels=4, sample_size=8, num_embeds_ada_norm=10, norm_num_groups=4),
        dict(hidden_states=floats(4, 8, 8), timestep=integers(1000), class_labels=integers(10)),
    ),
    tiny(
        "Transformer2DModel patches",
        dict(
            _DIT,
            in_channels=4,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
        ),
        dict(hidden_states=floats(4, 8, 8), timestep=integers(10), class_labels=integers(10)),
    ),
    tiny(
        "Transformer2DModel vector-quantised",
        dict(_DIT, num_vector_embeds=7, sample_size=4, num_embeds_ada_norm=10, norm_type="ada_norm"),
        dict(hidden_states=integers(7, 16)),
        call=_one_step_for_all,
    ),
    tiny(
        "PixArtTransformer2DModel",
        dict(_DIT, in_channels=4, sample_size=8, cross_attention_dim=16, caption_channels=6, norm_num_groups=4),
        dict(_LATENT, encoder_attention_mask=mask(3)),
        dict(added_cond_kwargs=dict(resolution=None, aspect_ratio=None)),
    ),
    tiny(
        "PixArtTransformer2DModel alpha",
        dict(
            _DIT,
            attention_head_dim=12,
            in_channels=4,
            sample_size=8,
            cross_attention_dim=24,
            caption_channels=6,
            norm_num_groups=4,
            use_additional_conditions=True,
        ),
        dict(_LATENT, added_cond_kwargs=dict(resolution=floats(2, scale=100.0), aspect_ratio=floats(1))),
    ),
    tiny(
        "SD3Transformer2DModel",
        dict(_SD3, qk_norm="rms_norm", dual_attention_layers=(0,)),
        dict(_LATENT, pooled_projections=floats(5)),
    ),
    tiny(
        "SD3ControlNetModel",
        _SD3,
        dict(_LATENT, pooled_projections=floats(5), controlnet_cond=floats(4, 8, 8)),
        dict(conditioning_scale=0.7),
    ),
    tiny(
        "FluxTransformer2DModel",
        dict(_FLUX, pooled_projection_dim=5, guidance_embeds=True),
        dict(_FLUX_INPUTS, pooled_projections=floats(5), guidance=times(5.0)),
        _FLUX_IDS,
    ),
    tiny(
        "FluxControlNetModel",
        dict(_FLUX, pooled_projection_dim=5, num_mode=3),
        dict(_FLUX_INPUTS, pooled_projections=floats(5), controlnet_cond=floats(4, 4), controlnet_mode=integers(3, 1)),
        dict(_FLUX_IDS, conditioning_scale=0.7),
    ),
    tiny(
        "Flux2Transformer2DModel",
        dict(_FLUX, axes_dims_rope=(4, 4, 4, 4), timestep_guidance_channels=8),
        dict(_FLUX_INPUTS, guidance=times(5.0)),
        _IDS4,
    ),
    tiny(
        "Flux3Transformer2DModel",
        dict(_FLUX, cond_in_channels=4, axes_dims_rope=(4, 4, 4, 4), timestep_channels=8),
        _FLUX_INPUTS,
        _IDS4,
    ),
    tiny(
        "ChromaTransformer2DModel",
        dict(_FLUX, approximator_num_channels=16, approximator_hidden_dim=8, approximator_layers=1),
        dict(_FLUX_INPUTS, attention_mask=mask(7)),
        _FLUX_IDS,
    ),
    tiny(
        "BriaTransformer2DModel",
        _FLUX,
        dict(_FLUX_INPUTS, timestep=times()),
        _FLUX_IDS,
    ),
    tiny(
        "BriaFiboTransformer2DModel",
        dict(_FLUX, joint_attention_dim=32, text_encoder_dim=6),
        dict(
            _FLUX_INPUTS,
            encoder_hidden_states=floats(3, 32),
            text_encoder_layers=[floats(3, 6), floats(3, 6)],
            timestep=times(),
        ),
        _FLUX_IDS,
    ),
    tiny(
        "LongCatImageTransformer2DModel",
        dict(_FLUX, pooled_projection_dim=6),
        _FLUX_INPUTS,
        _FLUX_IDS,
    ),
    tiny("OvisImageTransformer2DModel", dict(_FLUX, out_channels=4), _FLUX_INPUTS, _FLUX_IDS),
    tiny(
        "AuraFlowTransformer2DModel",
        dict(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=6,
            caption_projection_dim=16,
            pos_embed_max_size=16,
        ),
        dict(_LATENT, timestep=times(1.0)),
    ),
    tiny(
        "LuminaNextDiT2DModel",
        dict(
            sample_size=8,
            in_channels=4,
            hidden_size=16,
            num_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            cross_attention_dim=6,
        ),
        dict(_LATENT, timestep=times(1.0), encoder_mask=mask(3)),
        dict(
            image_rotary_emb=_COMPLEX_ROTATION,
            cross_attention_kwargs={},
        ),
    ),
    tiny(
        "Lumina2Transformer2DModel",
        dict(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(16, 8, 8),
            cap_feat_dim=6,
        ),
        dict(_LATENT, timestep=times(1.0), encoder_attention_mask=mask(3, torch.bool)),
    ),
    tiny(
        "HunyuanDiT2DModel",
        dict(_HUNYUAN_DIT, num_layers=4),
        _HUNYUAN_DIT_INPUTS,
        dict(image_rotary_emb=_ROTATION),
    ),
    tiny(
        "HunyuanDiT2DControlNetModel",
        dict(_HUNYUAN_DIT, transformer_num_layers=4),
        dict(_HUNYUAN_DIT_INPUTS, controlnet_cond=floats(4, 8, 8)),
        dict(image_rotary_emb=_ROTATION, conditioning_scale=0.7),
    ),
    tiny(
        "HunyuanImageTransformer2DModel",
        dict(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=(2, 2),
            guidance_embeds=True,
            text_embed_dim=6,
            text_embed_2_dim=5,
            rope_axes_dim=(4, 4),
        ),
        dict(
            _LATENT,
            encoder_attention_mask=mask(3),
            encoder_hidden_states_2=floats(2, 5),
            encoder_attention_mask_2=mask(2),
            guidance=times(5.0),
        ),
    ),
    tiny(
        "SanaTransformer2DModel",
        dict(_SANA, qk_norm="rms_norm_across_heads", guidance_embeds=True),
        dict(_LATENT, hidden_states=floats(4, 4, 4), encoder_attention_mask=mask(3), guidance=times(5.0)),
    ),
    tiny(
        "SanaControlNetModel",
        _SANA,
        dict(_LATENT, hidden_states=floats(4, 4, 4), controlnet_cond=floats(4, 4, 4), encoder_attention_mask=mask(3)),
        dict(conditioning_scale=0.7),
    ),
    tiny("CogView3PlusTransformer2DModel", _COGVIEW, dict(_LATENT, **_SIZES)),
    tiny("CogView4Transformer2DModel", dict(_COGVIEW, rope_axes_dim=(8, 8)), dict(_LATENT, **_SIZES)),
    tiny(
        "GlmImageTransformer2DModel",
        dict(
            _DIT,
            in_channels=4,
            out_channels=4,
            text_embed_dim=6,
            time_embed_dim=8,
            condition_dim=4,
            prior_vq_quantizer_codebook_size=9,
        ),
        dict(
            _LATENT,
            prior_token_id=integers(9, 16),
            prior_token_drop=ones(16, dtype=torch.bool),
            target_size=integers(90, 2),
            crop_coords=integers(80, 2),
        ),
    ),
    tiny(
        "QwenImageTransformer2DModel",
        _QWEN,
        dict(_FLUX_INPUTS, hidden_states=floats(4, 16), encoder_hidden_states_mask=mask(3)),
        call=_qwen,
    ),
    tiny(
        "QwenImageControlNetModel",
        _QWEN,
        dict(
            _FLUX_INPUTS,
            hidden_states=floats(4, 16),
            encoder_hidden_states_mask=mask(3),
            controlnet_cond=floats(4, 16),
        ),
        dict(conditioning_scale=0.7),
        call=_qwen,
    ),
    tiny(
        "NucleusMoEImageTransformer2DModel",
        dict(
            _ROPE,
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=4,
            mlp_ratio=12.0,
            joint_attention_dim=6,
            num_experts=2,
            moe_intermediate_dim=8,
            capacity_factors=[2.0] * 4,
        ),
        dict(_FLUX_INPUTS, hidden_states=floats(4, 16), encoder_hidden_states_mask=mask(3)),
        call=_qwen,
    ),
    tiny(
        "HiDreamImageTransformer2DModel",
        dict(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=(6, 5),
            text_emb_dim=4,
            num_routed_experts=2,
            num_activated_experts=1,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(8, 8),
            llama_layers=(0, 1),
        ),
        dict(
            hidden_states=floats(4, 8, 8),
            timesteps=times(),
            encoder_hidden_states_t5=floats(3, 6),
            pooled_embeds=floats(4),
            encoder_hidden_states_llama3=[floats(3, 5), floats(3, 5)],
        ),
    ),
    tiny(
        "ZImageTransformer2DModel",
        dict(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=6,
            axes_dims=[4, 4, 8],
            axes_lens=[64, 16, 16],
        ),
        dict(x=floats(4, 1, 8, 8), t=times(1.0), cap_feats=floats(3, 6)),
        call=_z_image,
    ),
    tiny(
        "Ideogram4Transformer2DModel",
        dict(
            in_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=24,
            adaln_dim=8,
            llm_features_dim=6,
            mrope_section=(4, 2, 2),
        ),
        dict(hidden_states=floats(7, 4), timestep=times(1.0), encoder_hidden_states=floats(7, 6)),
        call=_ideogram,
    ),
    tiny(
        "QwenImage21Transformer2DModel",
        dict(_ROPE, in_channels=4, out_channels=4, num_layers=1, context_in_dim=6),
        dict(hidden_states=floats(4, 4), encoder_hidden_states=floats(3, 6), timestep=times(1.0)),
        call=_qwen21,
    ),
    tiny(
        "BriaFibo2Transformer2DModel",
        dict(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            cap_feat_dim=6,
            injection_layer_ids=(1,),
            perceiver_num_layers=1,
            min_num_gist_tokens=2,
            max_num_gist_tokens=4,
            gist_step=1,
            gist_min_text_len=2,
            gist_max_text_len=8,
            axes_dims=(4, 4, 8),
            axes_lens=(16, 16, 16),
        ),
        dict(hidden_states=floats(4, 4, 4), timestep=times(1.0), encoder_hidden_states=floats(2, 3, 6)),
    ),
    tiny(
        "OmniGenTransformer2DModel",
        dict(
            in_channels=4,
            hidden_size=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=24,
            num_layers=1,
            pad_token_id=0,
            vocab_size=11,
            max_position_embeddings=32,
            original_max_position_embeddings=32,
            rope_scaling=dict(short_factor=[1.0] * 4, long_factor=[1.0] * 4),
            pos_embed_max_size=4,
            time_step_dim=8,
        ),
        dict(hidden_states=floats(4, 4, 4), timestep=times(1.0), input_ids=integers(11, 3)),
        call=_omnigen,
    ),
    tiny(
        "PRXTransformer2DModel",
        dict(in_channels=4, context_in_dim=6, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=1, axes_dim=(4, 4)),
        dict(_LATENT, timestep=times(1.0), attention_mask=ones(3)),
    ),
    tiny(
        "ErnieImageTransformer2DModel",
        dict(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=1,
            ffn_hidden_size=24,
            in_channels=4,
            out_channels=4,
            text_in_dim=6,
            rope_axes_dim=(4, 4, 8),
        ),
        dict(hidden_states=floats(4, 2, 2), timestep=times(), text_bth=floats(3, 6), text_lens=ones(dtype=torch.long)),
    ),
    tiny(
        "Krea2Transformer2DModel",
        dict(
            in_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=24,
            timestep_embed_dim=8,
            text_hidden_dim=16,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=12,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 4, 8),
        ),
        dict(hidden_states=floats(4, 4), encoder_hidden_states=floats(3, 2, 16), timestep=times(1.0)),
        dict(position_ids=grid(1, 1, 7)),
    ),
    tiny(
        "PriorTransformer",
        dict(num_attention_heads=2, attention_head_dim=4, num_layers=2, embedding_dim=6, num_embeddings=5),
        dict(hidden_states=floats(6), timestep=times(), proj_embedding=floats(6), encoder_hidden_states=floats(5, 6)),
    ),
    tiny(
        "StableAudioDiTModel",
        dict(
            sample_size=4,
            in_channels=3,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            out_channels=3,
            cross_attention_dim=4,
            time_proj_dim=8,
            global_states_input_dim=8,
            cross_attention_input_dim=4,
        ),
        dict(
            hidden_states=floats(3, 4),
            timestep=times(1.0),
            encoder_hidden_states=floats(3, 4),
            global_hidden_states=floats(1, 8),
        ),
        dict(rotary_embedding=(torch.cos(_FEW_ANGLES), torch.sin(_FEW_ANGLES))),
    ),
    tiny(
        "StableAudio3DiTModel",
        dict(
            io_channels=4,
            embed_dim=16,
            depth=1,
            num_heads=2,
            cond_token_dim=6,
            global_cond_dim=5,
            local_add_cond_dim=3,
            timestep_features_dim=8,
            num_memory_tokens=2,
        ),
        dict(
            hidden_states=floats(4, 4),
            timestep=times(1.0),
            encoder_hidden_states=floats(3, 6),
            global_hidden_states=floats(5),
            local_add_cond=floats(3, 4),
        ),
    ),
    tiny(
        "AceStepTransformer1DModel",
        dict(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            in_channels=12,
            audio_acoustic_hidden_dim=4,
            sliding_window=2,
        ),
        dict(
            hidden_states=floats(4, 4),
            timestep=times(1.0),
            timestep_r=times(1.0),
            encoder_hidden_states=floats(3, 16),
            context_latents=floats(4, 8),
        ),
    ),
    tiny(
        "LongCatAudioDiTTransformer",
        dict(dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=6, latent_dim=4),
        dict(
            hidden_states=floats(4, 4),
            encoder_hidden_states=floats(3, 6),
            encoder_attention_mask=ones(3, dtype=torch.bool),
            timestep=times(1.0),
            latent_cond=floats(4, 4),
        ),
    ),
    tiny(
        "T5FilmDecoder",
        dict(input_dims=4, targets_length=5, d_model=8, num_layers=1, num_heads=2, d_kv=4, d_ff=12),
        dict(
            encodings_and_masks=[(floats(3, 8), ones(3))],
            decoder_input_tokens=floats(5, 4),
            decoder_noise_time=times(1.0),
        ),
    ),
    tiny(
        "MiniMaxMusic3Transformer1DModel",
        dict(
            in_channels=4,
            condition_dim=6,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            ff_inner_dim=12,
            rotary_dim=4,
            fourier_embedding_dim=8,
        ),
        dict(hidden_states=floats(4, 4), timestep=times(1.0), encoder_hidden_states=floats(4, 6)),
    ),
    missing("FluxMultiControlNetModel", "a list of FluxControlNetModel whose outputs are added"),
    missing("SD3MultiControlNetModel", "a list of SD3ControlNetModel whose outputs are added"),
    missing("HunyuanDiT2DMultiControlNetModel", "a list of HunyuanDiT2DControlNetModel whose outputs are added"),
    missing("QwenImageMultiControlNetModel", "a list of QwenImageControlNetModel whose outputs are added"),
    missing("ZImageControlNetModel", "has no embeddings of its own: they are those of a ZImageTransformer2DModel"),
    missing("AnimaTextConditioner", "prepares text embeddings and is no denoiser"),
    missing("MiniMaxMusic3ConditionEncoder", "prepares conditions and is no denoiser"),
    missing("MiniMaxMusic3RVQDepthDecoder", "predicts tokens and is no denoiser"),
]


def architectures() -> list[Architecture]:
    """Images first, then audio and embeddings."""
    return ARCHITECTURES
