"""Rules for J̄ = ∫₀¹ J(θ + s Δθ) ds along one step.

The change of the outputs in one step is J̄ Δθ exactly, whatever the step; a rule on [0, 1] approximates J̄ by
Σ_q w_q J(θ + s_q Δθ). Global errors at a fixed horizon (step size × steps), for networks that are smooth:

==============  =====  ==================================  =========
rule            nodes  evaluations per step                order
==============  =====  ==================================  =========
``left``        1      1                                   1
``trapezoid``   2      1, shared between neighbours        2
``midpoint``    1      1, between the recorded weights     2
``gauss<m>``    m      m, between the recorded weights     2 m
==============  =====  ==================================  =========
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from genkernel.errors import InputError


@dataclass(frozen=True)
class Rule:
    """Nodes and weights on [0, 1].

    Attributes:
        name: as it was asked for.
        nodes, weights: of equal length.
        telescopes: the end of one step and the start of the next are evaluated together.
    """

    name: str
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    telescopes: bool = False


def parse_rule(name: str) -> Rule:
    """A rule by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name == "left":
        return Rule(name, (0.0,), (1.0,))
    if name == "trapezoid":
        return Rule(name, (0.0, 1.0), (0.5, 0.5), telescopes=True)
    if name == "midpoint":
        return Rule(name, (0.5,), (1.0,))
    match = re.fullmatch(r"gauss(\d{1,2})", name) if isinstance(name, str) else None
    if match and int(match[1]) >= 1:
        nodes, weights = np.polynomial.legendre.leggauss(int(match[1]))
        return Rule(name, tuple(((nodes + 1) / 2).tolist()), tuple((weights / 2).tolist()))
    raise InputError(f"rule is 'left', 'trapezoid', 'midpoint' or 'gauss2', 'gauss4', …, not {name!r}")
