"""Attention, embeddings, norms and recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.cases import Net, P, both, case, floats, integers

# attention ----------------------------------------------------------------------------------------

for _first in (True, False):

    @case(
        "packed in_proj" + ("" if _first else ", tokens first: linears see (T, n, C)"), floats(4, 4), common=True,
        name=f"mha_{'batch' if _first else 'tokens'}_first",
    )  # fmt: skip
    def _attention(first: bool = _first) -> nn.Module:
        def forward(net: Net, x: Tensor) -> Tensor:
            z = x if first else x.transpose(0, 1)
            z = net.attention(z, z, z, need_weights=False)[0]
            return (z if first else z.transpose(0, 1)).flatten(1)

        return Net(forward, attention=nn.MultiheadAttention(4, 2, batch_first=first))


@case("attention whose weights are asked for", floats(3, 4), common=True)
def mha_weights() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        z, weights = net.attention(x, x, x, need_weights=True)
        return z.mean(1) + weights.sum(1) @ net.w

    return Net(forward, attention=nn.MultiheadAttention(4, 2, batch_first=True), w=P(3, 4))


@case("cross-attention: in_proj split into q and kv", both(floats(3, 4), floats(2, 4)), common=True)
def mha_cross() -> nn.Module:
    return Net(
        lambda net, x, y: net.attention(x, y, y, need_weights=False)[0].flatten(1),
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
    )


@case("cross-attention: in_proj chunked into q, k and v", both(floats(3, 4), floats(2, 4), floats(2, 4)), common=True)
def mha_three_inputs() -> nn.Module:
    return Net(
        lambda net, x, y, z: net.attention(x, y, z, need_weights=False)[0].flatten(1),
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
    )


@case("separate projections, learned bias of k and v, a zero token", both(floats(3, 4), floats(2, 3), floats(2, 5)))
def mha_separate() -> nn.Module:
    return Net(
        lambda net, x, y, z: net.attention(x, y, z, need_weights=False)[0].flatten(1),
        attention=nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True, add_zero_attn=True, batch_first=True),
    )


for _norm_first in (False, True):

    @case(
        "encoder layer: eval mode has a fused fast path",
        floats(3, 4),
        name=f"transformer_{'pre' if _norm_first else 'post'}_norm",
        common=True,
    )
    def _transformer(norm_first: bool = _norm_first) -> nn.Module:
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=norm_first)
        return Net(lambda net, x: net.body(x).mean(1), body=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


@case("tokens first through a whole encoder, n = T = C", floats(4, 4), common=True)
def transformer_tokens_first() -> nn.Module:
    return Net(lambda net, x: net.layer(x.transpose(0, 1)).mean(0), layer=nn.TransformerEncoderLayer(4, 2, 6))


@case("a decoder layer with memory", both(floats(3, 4), floats(2, 4)), common=True)
def transformer_decoder() -> nn.Module:
    return Net(lambda net, x, m: net.layer(x, m).mean(1), layer=nn.TransformerDecoderLayer(4, 2, 6, batch_first=True))


@case("a learned table of relative positions is the attention mask", floats(4, 4))
def relative_position_bias() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        q, k, v = (z.unflatten(-1, (2, 2)).transpose(1, 2) for z in net.qkv(x).chunk(3, -1))
        bias = net.table[net.index].permute(2, 0, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(1)

    index = torch.arange(4)[:, None] - torch.arange(4)[None] + 3
    return Net(forward, qkv=nn.Linear(4, 12), table=P(7, 2), index=index)


# embeddings ---------------------------------------------------------------------------------------


@case("several tokens, repeated, and a padding index", integers(5, 4), common=True)
def embedding() -> nn.Module:
    return Net(lambda net, i: torch.tanh(net.table(i)).mean(1), table=nn.Embedding(5, 3, padding_idx=1))


for _mode in ("sum", "mean", "max"):

    @case(f"{_mode} over a bag of tokens", integers(6, 4), name=f"embedding_bag_{_mode}")
    def _embedding_bag(mode: str = _mode) -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(6, 3, mode=mode, padding_idx=0), nn.Tanh(), nn.Linear(3, 2))


@case("a table indexed by hand, and index_select", integers(6, 3))
def indexed_table() -> nn.Module:
    def forward(net: Net, i: Tensor) -> Tensor:
        other = net.other.index_select(0, i.flatten()).view(len(i), -1, 2)
        return torch.tanh(net.table[i]).sum(1) + other.prod(1)

    return Net(forward, table=P(6, 2), other=P(6, 2))


@case(
    "tables of vectors, of matrices and of numbers, read by negative and by many indices",
    integers(6, 2, 3),
    common=True,
)
def indexed_tables() -> nn.Module:
    def forward(net: Net, i: Tensor) -> Tensor:
        mixed = torch.einsum("nabij,nabj->ni", net.matrices[i - 6], torch.tanh(net.vectors[i]))
        return mixed + net.numbers[(i,)].sum((1, 2))[:, None] * net.matrices.index_select(0, i[:, 0, 0]).sum(-1)

    return Net(forward, matrices=P(6, 2, 3), vectors=P(6, 3), numbers=P(6))


@case("gather from an expanded parameter", integers(4, 2))
def gathered() -> nn.Module:
    return Net(lambda net, i: torch.tanh(net.row.expand(len(i), -1).gather(1, i)), row=P(4))


@case("flattened tokens: n and T merged", integers(6, 3), common=True)
def embedding_flattened() -> nn.Module:
    return Net(
        lambda net, i: net.out(torch.tanh(net.table(i.flatten()))).view(*i.shape, 2).mean(1),
        table=nn.Embedding(6, 3), out=nn.Linear(3, 2),
    )  # fmt: skip


@case("one-hot rows times a table", integers(5))
def one_hot() -> nn.Module:
    return Net(lambda net, i: torch.tanh(F.one_hot(i, 5).to(net.table.dtype) @ net.table), table=P(5, 3))


# norms --------------------------------------------------------------------------------------------

_NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer_norm": (lambda: nn.LayerNorm(4), (4,)),
    "layer_norm_tokens": (lambda: nn.LayerNorm(4, bias=False), (3, 4)),
    "layer_norm_two_axes": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
    "rms_norm": (lambda: nn.RMSNorm(4), (3, 4)),
    "group_norm": (lambda: nn.GroupNorm(2, 4), (4, 3, 3)),
    "group_norm_3d": (lambda: nn.GroupNorm(2, 4), (4, 5)),
    "group_norm_2d": (lambda: nn.GroupNorm(2, 4), (4,)),
    "instance_norm_1d": (lambda: nn.InstanceNorm1d(3, affine=True), (3, 5)),
    "instance_norm_2d": (lambda: nn.InstanceNorm2d(3, affine=True), (3, 3, 3)),
    "instance_norm_running": (lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (3, 3, 3)),
    "batch_norm_2d": (lambda: nn.BatchNorm2d(3), (3, 3, 3)),
    "batch_norm_3d": (lambda: nn.BatchNorm3d(2), (2, 2, 2, 2)),
    "prelu": (lambda: nn.PReLU(), (3, 3)),
    "prelu_per_channel": (lambda: nn.PReLU(3), (3, 4)),
}

for _name, (_norm, _shape) in _NORMS.items():

    @case(
        "affine parameters alone, on an input that needs no gradient, and again",
        floats(*_shape),
        name=_name,
        common=True,
    )
    def _affine(norm: Callable[[], nn.Module] = _norm, shape: tuple[int, ...] = _shape) -> nn.Module:
        return nn.Sequential(norm(), nn.Tanh(), norm(), nn.Flatten(), nn.Linear(math.prod(shape), 2))


# recurrent layers ---------------------------------------------------------------------------------

for _kind in (nn.GRU, nn.LSTM, nn.RNN):
    for _first in (True, False):

        @case("vmap raises on it; all weights enter one call", floats(3, 2),
              name=f"{_kind.__name__.lower()}_{'batch' if _first else 'time'}_first")  # fmt: skip
        def _recurrent(kind: Any = _kind, first: bool = _first) -> nn.Module:
            def forward(net: Net, x: Tensor) -> Tensor:
                out = net.cells(x if first else x.transpose(0, 1))[0]
                return net.out(out[:, -1] if first else out[-1])

            return Net(forward, cells=kind(2, 3, batch_first=first), out=nn.Linear(3, 2))


@case("a bidirectional GRU of two layers", floats(3, 2))
def gru_bidirectional() -> nn.Module:
    return Net(
        lambda net, x: net.cells(x)[0].mean(1), cells=nn.GRU(2, 2, num_layers=2, bidirectional=True, batch_first=True)
    )


@case("an LSTM of two layers with projections, from a learned initial state", floats(3, 2), common=True)
def lstm_learned_state() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h, c = (s.expand(-1, len(x), -1).contiguous() for s in (net.h, net.c))
        out, (last, cells) = net.cells(x, (h, c))
        return out.mean(1) + last.prod(0) + cells.sum((0, 2)).unsqueeze(-1)

    cells = nn.LSTM(2, 3, num_layers=2, proj_size=2, batch_first=True)
    return Net(forward, cells=cells, h=P(2, 1, 2), c=P(2, 1, 3))


@case("a ReLU RNN in both directions without biases", floats(4, 2), common=True)
def rnn_relu() -> nn.Module:
    cells = nn.RNN(2, 3, nonlinearity="relu", bias=False, bidirectional=True)
    return Net(lambda net, x: torch.tanh(net.cells(x.transpose(0, 1))[0]).mean(0), cells=cells)


@case("a packed sequence, which mixes the samples of each step", floats(3, 2))
def gru_packed() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        lengths = 2 + (x[:, 0, 0] > 0).long()
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return torch.tanh(net.cells(packed)[1][0] + x.sum((1, 2))[:, None])

    return Net(forward, cells=nn.GRU(2, 3))


@case("an LSTM cell, which returns two tensors, and an RNN cell", floats(3, 2), common=True)
def lstm_cell() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        state, r = None, None
        for t in range(x.shape[1]):
            state = net.cell(x[:, t], state)
            r = net.other(state[0], r)
        return r

    return Net(forward, cell=nn.LSTMCell(2, 3), other=nn.RNNCell(3, 2, bias=False))


@case("a recurrent cell called per step", floats(3, 2), common=True)
def gru_cell() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 3)
        for t in range(x.shape[1]):
            h = net.cell(x[:, t], h)
        return h

    return Net(forward, cell=nn.GRUCell(2, 3))
