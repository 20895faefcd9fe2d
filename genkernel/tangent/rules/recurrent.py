"""Recurrent layers, written out step by step: one call of torch takes all their weights at once.

Written out, the weights on the input are one linear layer over all steps, and those on the
hidden state one that is called at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]  # (h,), or (h, c) of an LSTM
Step = Callable[[Tensor, State, Sequence[Tensor | None]], State]


def plain(args: tuple[Any, ...]) -> bool:
    """A cell; or a layer (input, state, weights, has_biases, layers, dropout, train, …) without dropout.

    The arguments of packed sequences come in another order.
    """
    return len(args) <= 6 or (isinstance(args[3], bool) and not (args[5] and args[6]))


def _gru(gates: Tensor, state: State, weights: Sequence[Tensor | None]) -> State:
    """r, z = σ(…), c = tanh(x_c + r ∘ h_c), h ← c + z ∘ (h − c)."""
    (h,) = state
    xr, xz, xc = gates.chunk(3, -1)
    hr, hz, hc = F.linear(h, _given(weights[0]), weights[1]).chunk(3, -1)
    candidate = torch.tanh(xc + torch.sigmoid(xr + hr) * hc)
    return (candidate + torch.sigmoid(xz + hz) * (h - candidate),)


def _lstm(gates: Tensor, state: State, weights: Sequence[Tensor | None]) -> State:
    """c ← f ∘ c + i ∘ g, h ← (W_hr) (o ∘ tanh c)."""
    h, c = state
    i, f, g, o = (gates + F.linear(h, _given(weights[0]), weights[1])).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if len(weights) < 3 else F.linear(h, _given(weights[2]))), c


def _rnn(
    activation: Callable[[Tensor], Tensor], gates: Tensor, state: State, weights: Sequence[Tensor | None]
) -> State:
    return (activation(gates + F.linear(state[0], _given(weights[0]), weights[1])),)


def _given(weight: Tensor | None) -> Tensor:
    assert weight is not None
    return weight


def _layers(
    step: Step,
    input: Tensor,
    hx: Tensor | Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """``torch.gru``, ``torch.lstm``, ``torch.rnn_tanh``, ``torch.rnn_relu`` on input ``[T, n, c]``."""
    x = input.transpose(0, 1) if batch_first else input
    start = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    directions = 2 if bidirectional else 1
    per_layer = len(params) // (num_layers * directions)
    last: list[State] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            own = list(params[place * per_layer : (place + 1) * per_layer])
            w_ih, w_hh, *rest = own
            b_ih, b_hh = (rest.pop(0), rest.pop(0)) if has_biases else (None, None)
            gates = F.linear(x, w_ih, b_ih)
            state = tuple(_of_samples(s[place], x[0]) for s in start)
            steps = []
            for t in reversed(range(len(x))) if direction else range(len(x)):
                state = step(gates[t], state, (w_hh, b_hh, *rest))
                steps.append(state[0])
            outputs.append(torch.stack(steps[::-1] if direction else steps))
            last.append(state)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
    out = x.transpose(0, 1) if batch_first else x
    return (out, *(torch.stack(states) for states in zip(*last, strict=True)))


def _cell(
    step: Step,
    input: Tensor,
    hx: Tensor | Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:
    """``torch.gru_cell`` and its relatives."""
    start = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    state = step(F.linear(input, w_ih, b_ih), tuple(_of_samples(s, input) for s in start), (w_hh, b_hh))
    return state[0] if isinstance(hx, Tensor) else state


def _of_samples(state: Tensor, x: Tensor) -> Tensor:
    """The initial state, as something that depends on the samples.

    A state of zeros would make W h a tensor computed from parameters alone, with a row per sample.
    """
    return state + 0 * x[..., :1].detach()


_TANH, _RELU = partial(_rnn, torch.tanh), partial(_rnn, torch.relu)
COMPOSITES: dict[Any, Callable[..., Any]] = {
    torch.gru: partial(_layers, _gru),
    torch.lstm: partial(_layers, _lstm),
    torch.rnn_tanh: partial(_layers, _TANH),
    torch.rnn_relu: partial(_layers, _RELU),
    torch.gru_cell: partial(_cell, _gru),
    torch.lstm_cell: partial(_cell, _lstm),
    torch.rnn_tanh_cell: partial(_cell, _TANH),
    torch.rnn_relu_cell: partial(_cell, _RELU),
}
