"""The known wrong answers of other engines, as rows of the table of architectures."""

from __future__ import annotations

from functools import partial

from genkernel.bench.architectures import Architecture, Built
from tests.zoo import CASES

#: what went wrong elsewhere → the case of the zoo that stands for it
TRAPS = {
    "a layer called three times": "called_three_times",
    "a convolution called at three resolutions": "conv_called_three_times",
    "tied weights": "tied_embedding",
    "grouped convolution": "conv2d_grouped",
    "depthwise convolution": "conv2d_depthwise",
    "reflect padding": "conv2d_reflect",
    "bare parameters": "scale_shift",
    "a time embedding that does not depend on x": "unet",
    "GroupNorm on 3-D inputs inside attention": "group_norm_3d",
    "batch norm, then in-place ReLU": "conv_bn_relu",
    "linear layers on (tokens, n, C)": "mha_tokens_first",
    "packed weights of attention": "mha_three_inputs",
    "adaLN-zero": "dit_block_zero",
    "spectral norm": "spectral_norm",
    "samples merged with windows": "windows",
    "frames merged in the middle of an axis": "merged_in_between",
    "recurrent layers": "gru_bidirectional",
    "padded look-up tables": "embedding_bag_mean",
}
#: products of float64 gradients accumulated in float32 show modes that are not there
RANKS = "ranks of a kernel of 64 samples"


def architectures() -> list[Architecture]:
    """Each trap as a tiny network."""
    cases = {case.name: case for case in CASES}

    def build(name: str) -> Built:
        case = cases[name]
        return Built(case.module(), case.batch, case.call)

    found = [Architecture(trap, "traps", partial(build, name)) for trap, name in TRAPS.items()]
    return [*found, Architecture(RANKS, "traps", partial(build, "mlp"), samples=64, ranks=True)]
