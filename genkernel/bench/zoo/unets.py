"""UNets, ControlNets and adapters of diffusers, tiny."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genkernel.bench.architectures import Architecture
from genkernel.bench.zoo.tiny import floats, integers, mask, missing, ones, times, tiny

_CROSS: dict[str, Any] = dict(
    block_out_channels=(8, 16),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    cross_attention_dim=8,
    attention_head_dim=4,
    norm_num_groups=4,
)
_CROSS_UNET: dict[str, Any] = dict(_CROSS, sample_size=8, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
_CONTROLNET: dict[str, Any] = dict(_CROSS, conditioning_embedding_out_channels=(4, 8))
_IMAGE: dict[str, Any] = dict(sample=floats(4, 8, 8), timestep=times(), encoder_hidden_states=floats(3, 8))
_VIDEO: dict[str, Any] = dict(sample=floats(4, 2, 8, 8), timestep=times(), encoder_hidden_states=floats(3, 8))


def _frames_as_rows(module: Any, **inputs: Any) -> Any:
    """For networks that take the frames of a video as the first axis: ``[n, f, ...]`` → ``[n · f, ...]``."""
    frames = inputs["hidden_states"].shape[1]
    inputs["hidden_states"] = inputs["hidden_states"].flatten(0, 1)
    out = module(**inputs, num_frames=frames).sample
    return out.unflatten(0, (-1, frames))


def _text_per_frame(module: Any, sample: Tensor, encoder_hidden_states: Tensor, **inputs: Any) -> Any:
    """For networks that take a text for every frame: ``[n, ...]`` → ``[n · f, ...]``."""
    text = encoder_hidden_states.repeat_interleave(sample.shape[2], 0)
    return module(sample, encoder_hidden_states=text, **inputs)


def _control_per_frame(module: Any, sample: Tensor, **inputs: Any) -> Any:
    """The same for one whose outputs have a row per frame, too."""
    down, middle = _text_per_frame(module, sample, return_dict=False, **inputs)
    return [out.unflatten(0, (-1, sample.shape[2])) for out in (*down, middle)]


ARCHITECTURES = [
    tiny(
        "UNet1DModel",
        dict(
            sample_size=16,
            in_channels=2,
            out_channels=2,
            extra_in_channels=64,
            block_out_channels=(32, 32, 64),
        ),
        dict(sample=floats(2, 32), timestep=times()),
    ),
    tiny(
        "UNet1DModel rl",
        dict(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            time_embedding_type="positional",
            use_timestep_embedding=True,
            down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
            up_block_types=("UpResnetBlock1D",),
            mid_block_type="MidResTemporalBlock1D",
            out_block_type="OutConv1DBlock",
            block_out_channels=(8, 16),
            norm_num_groups=4,
            act_fn="swish",
            freq_shift=1.0,
            flip_sin_to_cos=False,
        ),
        dict(sample=floats(4, 16), timestep=times()),
    ),
    tiny(
        "UNet2DModel",
        dict(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
        dict(sample=floats(3, 8, 8), timestep=times()),
    ),
    tiny(
        "UNet2DModel class-conditional",
        dict(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            num_class_embeds=5,
            resnet_time_scale_shift="scale_shift",
            downsample_type="resnet",
            upsample_type="resnet",
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        ),
        dict(sample=floats(3, 8, 8), timestep=times(), class_labels=integers(5)),
    ),
    tiny(
        "UNet2DModel ncsn++",
        dict(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            attention_head_dim=16,
            time_embedding_type="fourier",
            norm_eps=1e-6,
            mid_block_scale_factor=1.414,
            down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
            up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        ),
        dict(sample=floats(3, 8, 8), timestep=times()),
    ),
    tiny("UNet2DConditionModel", _CROSS_UNET, _IMAGE),
    tiny(
        "UNet2DConditionModel sdxl",
        dict(
            _CROSS_UNET,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=30,
            transformer_layers_per_block=(1, 2),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        dict(_IMAGE, added_cond_kwargs=dict(text_embeds=floats(6), time_ids=integers(100, 6))),
    ),
    tiny(
        "UNet2DConditionModel consistency",
        dict(_CROSS_UNET, time_cond_proj_dim=6),
        dict(_IMAGE, timestep_cond=floats(6)),
    ),
    tiny(
        "UNet2DConditionModel deepfloyd",
        dict(
            _CROSS_UNET,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            resnet_time_scale_shift="scale_shift",
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            encoder_hid_dim=6,
            encoder_hid_dim_type="text_proj",
            cross_attention_dim=32,
            cross_attention_norm="group_norm",
            class_embed_type="timestep",
            act_fn="gelu",
        ),
        dict(_IMAGE, encoder_hidden_states=floats(3, 6), class_labels=times()),
    ),
    tiny(
        "UNet2DConditionModel kandinsky2.2",
        dict(
            _CROSS_UNET,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            resnet_time_scale_shift="scale_shift",
            addition_embed_type="image",
            encoder_hid_dim=6,
            encoder_hid_dim_type="image_proj",
        ),
        dict(sample=floats(4, 8, 8), timestep=times(), added_cond_kwargs=dict(image_embeds=floats(6))),
        dict(encoder_hidden_states=None),
    ),
    tiny(
        "UNet3DConditionModel",
        dict(
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        ),
        _VIDEO,
    ),
    tiny(
        "UNetMotionModel",
        dict(
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            num_attention_heads=2,
            motion_num_attention_heads=2,
            motion_max_seq_length=4,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        ),
        _VIDEO,
        call=_text_per_frame,
    ),
    tiny(
        "UNetSpatioTemporalConditionModel",
        dict(
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=8,
            num_attention_heads=2,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            num_frames=2,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        ),
        dict(
            sample=floats(2, 8, 8, 8),
            timestep=times(),
            encoder_hidden_states=floats(1, 8),
            added_time_ids=integers(100, 3),
        ),
    ),
    tiny(
        "I2VGenXLUNet",
        dict(
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            num_attention_heads=2,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        ),
        dict(
            _VIDEO,
            fps=integers(30),
            image_latents=floats(4, 2, 8, 8),
            image_embeddings=floats(8),
        ),
    ),
    tiny(
        "Kandinsky3UNet",
        dict(
            time_embedding_dim=8,
            groups=4,
            attention_head_dim=4,
            layers_per_block=2,
            block_out_channels=(8, 8, 16, 16),
            cross_attention_dim=8,
            encoder_hid_dim=6,
        ),
        dict(_IMAGE, encoder_hidden_states=floats(3, 6), encoder_attention_mask=mask(3)),
    ),
    tiny(
        "StableCascadeUNet",
        dict(
            in_channels=4,
            out_channels=4,
            timestep_ratio_embedding_dim=8,
            conditioning_dim=8,
            block_out_channels=(8, 16),
            num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            clip_text_in_channels=6,
            clip_text_pooled_in_channels=6,
            clip_image_in_channels=6,
            clip_seq=2,
        ),
        dict(
            sample=floats(4, 4, 4),
            timestep_ratio=times(1.0),
            clip_text_pooled=floats(1, 6),
            clip_text=floats(3, 6),
            clip_img=floats(1, 6),
        ),
    ),
    tiny(
        "StableCascadeUNet decoder",
        dict(
            in_channels=4,
            out_channels=4,
            timestep_ratio_embedding_dim=8,
            patch_size=2,
            conditioning_dim=8,
            block_out_channels=(8, 16),
            num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            down_blocks_repeat_mappers=(1, 1),
            up_blocks_repeat_mappers=(2, 1),
            block_types_per_layer=(
                ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
                ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
            ),
            clip_text_pooled_in_channels=6,
            clip_seq=2,
            effnet_in_channels=3,
            pixel_mapper_in_channels=3,
            timestep_conditioning_type=("sca",),
        ),
        dict(sample=floats(4, 8, 8), timestep_ratio=times(1.0), clip_text_pooled=floats(1, 6), effnet=floats(3, 2, 2)),
    ),
    tiny(
        "UVit2DModel",
        dict(
            hidden_size=8,
            cond_embed_dim=6,
            micro_cond_encode_dim=4,
            micro_cond_embed_dim=20,
            encoder_hidden_size=6,
            vocab_size=12,
            codebook_size=10,
            in_channels=8,
            block_out_channels=8,
            num_res_blocks=1,
            downsample=True,
            upsample=True,
            block_num_heads=2,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=12,
            sample_size=4,
        ),
        dict(
            input_ids=integers(12, 4, 4),
            encoder_hidden_states=floats(3, 6),
            pooled_text_emb=floats(6),
            micro_conds=integers(100, 5),
        ),
    ),
    tiny(
        "DreamLiteUNetModel",
        dict(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            attention_head_dim=4,
            down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
            up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        ),
        _IMAGE,
    ),
    tiny(
        "Transformer2DModel",
        dict(num_attention_heads=2, attention_head_dim=4, in_channels=8, cross_attention_dim=6, norm_num_groups=4),
        dict(hidden_states=floats(8, 4, 4), encoder_hidden_states=floats(3, 6)),
    ),
    tiny(
        "DreamLiteTransformer2DModel",
        dict(num_attention_heads=2, attention_head_dim=4, in_channels=8, cross_attention_dim=6, norm_num_groups=4),
        dict(hidden_states=floats(8, 4, 4), encoder_hidden_states=floats(3, 6)),
    ),
    tiny(
        "TransformerTemporalModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=32,
            cross_attention_dim=6,
            positional_embeddings="sinusoidal",
            num_positional_embeddings=4,
        ),
        dict(hidden_states=floats(3, 32, 2, 2)),
        call=_frames_as_rows,
    ),
    # ------------------------------------------------------------------------------ control
    tiny("ControlNetModel", _CONTROLNET, dict(_IMAGE, controlnet_cond=floats(3, 16, 16)), dict(conditioning_scale=0.7)),
    tiny(
        "ControlNetUnionModel",
        dict(
            _CONTROLNET,
            num_control_type=3,
            num_trans_channel=8,
            num_trans_head=2,
            num_proj_channel=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=30,
        ),
        dict(
            _IMAGE,
            added_cond_kwargs=dict(text_embeds=floats(6), time_ids=integers(100, 6)),
            controlnet_cond=[floats(3, 16, 16)],
            control_type=ones(3),
        ),
        dict(control_type_idx=[0]),
    ),
    tiny(
        "SparseControlNetModel",
        dict(
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            attention_head_dim=4,
            motion_num_attention_heads=2,
            motion_max_seq_length=4,
            conditioning_embedding_out_channels=(4, 8),
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        ),
        dict(_VIDEO, controlnet_cond=floats(4, 2, 8, 8), conditioning_mask=ones(1, 2, 8, 8)),
        call=_control_per_frame,
    ),
    tiny(
        "UNetControlNetXSModel",
        dict(
            sample_size=8,
            block_out_channels=(4, 8),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            cross_attention_dim=8,
            num_attention_heads=2,
            ctrl_conditioning_embedding_out_channels=(2, 2),
            ctrl_block_out_channels=(2, 4),
            ctrl_num_attention_heads=2,
            ctrl_max_norm_num_groups=2,
        ),
        dict(_IMAGE, controlnet_cond=floats(3, 16, 16)),
    ),
    tiny(
        "T2IAdapter",
        dict(in_channels=3, channels=[8, 8, 16, 16], num_res_blocks=1, downscale_factor=4),
        dict(x=floats(3, 32, 32)),
    ),
    missing("MultiControlNetModel", "a list of ControlNetModel whose outputs are added"),
    missing("MultiAdapter", "a list of T2IAdapter whose outputs are added"),
    missing("ControlNetXSAdapter", "holds weights for UNetControlNetXSModel and has no forward pass of its own"),
    missing("MotionAdapter", "holds weights for UNetMotionModel and has no forward pass of its own"),
]


def architectures() -> list[Architecture]:
    """UNets, then what steers them."""
    return ARCHITECTURES
