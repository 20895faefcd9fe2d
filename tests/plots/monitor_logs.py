"""Small traces of every kind of monitor, with numbers that are easy to know: for figures, pages and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import genkernel as gk
from genkernel.monitor import Alert, Axis, Header, Problem, Reading, Trace

PARAMETERS = [f"blocks.{i}.conv.{part}" for i in range(20) for part in ("weight", "bias")]


def denoiser(readings: int = 8, every: int = 10, seed: int = 0) -> Trace:
    """Losses that fall, a kernel that grows local, one parameter that speeds up in the second half, gaps and alerts."""
    draw = np.random.default_rng(seed)
    times = [0.0, 300.0, 600.0, 999.0]
    header = Header(
        "denoiser",
        {
            "level": Axis("level", [f"t = {t:g}" for t in times], times, "timestep"),
            "parameter": Axis("parameter", PARAMETERS),
        },
        {
            "loss/level": ["level"], "gradient/noise_scale": ["level"], "gradient/cosine": ["level", "level"],
            "kernel/level": ["level", "level"], "time/ratio": ["level"], "weights/moved": ["parameter"],
            "weights/size": ["parameter"], "weights/nonfinite": ["parameter"],
        },
        {"seed": 3, "every": every, "rules": ["loss/spike"], "log_snr": [9.0, 1.0, -3.0, -10.0],
         "denoiser": {"name": "TinyUNet"}},
        {"versions": {"genkernel": "0.1.0", "torch": "2"}, "machine": {"system": "Linux"}},
    )  # fmt: skip
    trace = Trace(header)
    for k in range(readings):
        fall = 1 / (1 + k)
        loss = fall * np.array([1.0, 0.3, 0.1, 0.02])
        noise = draw.uniform(1, 50, 4)
        noise[k % 4] = np.nan
        cosine = np.clip(np.eye(4) + 0.3 * draw.standard_normal((4, 4)), -1, 1)
        moved = np.full(len(PARAMETERS), 1e-3 if k else np.nan)
        moved[7] *= 100 if k >= readings // 2 else 1
        trace.readings.append(
            Reading(
                k * every, 0.5 * k, 0.01,
                {"loss/mean": float(loss.mean()), "ema/loss": float(loss.mean()) * 1.1, "kernel/locality": 0.1 * k,
                 "kernel/drift": np.nan if k == 0 else 0.1, "gradient/conflicts": np.inf if k == 2 else 0.25,
                 "health/problems": float(k == 3), "monitor/overhead": 0.015},
                {"loss/level": loss, "gradient/noise_scale": noise, "gradient/cosine": (cosine + cosine.T) / 2,
                 "kernel/level": np.eye(4) * 0.5 + 0.1, "time/ratio": np.array([1.0, 1.0, 0.5, 2.0]),
                 "weights/moved": moved, "weights/size": np.ones(len(PARAMETERS)),
                 "weights/nonfinite": np.zeros(len(PARAMETERS))},
                [Problem("kernel", "NonFiniteError", "outputs at t = 999 are NaN")] if k == 3 else [],
            )
        )  # fmt: skip
    if readings > 5:
        trace.alerts += [
            Alert("loss/spike", "the loss at t = 600 rises since step 30", 5 * every, 3 * every, ["t = 600"], "level"),
            Alert("mine", "something of my own", 4 * every, 4 * every, severity="failure", evidence={"rise": 2.0}),
        ]
    return trace


def gan(readings: int = 9, clusters: int = 5) -> Trace:
    """Samples that gather in the first cluster, which drives more and more."""
    header = Header(
        "gan",
        {
            "cluster": Axis("cluster", [f"cluster {c}" for c in range(clusters)]),
            "parameter": Axis("parameter", ["G.a.weight", "D.b.weight"]),
            "singular value": Axis("singular value", ["1", "2", "3"], [1.0, 2.0, 3.0]),
        },
        {
            "kernel/cluster": ["cluster", "cluster"], "transport/amplification": ["cluster", "cluster"],
            "transport/driving": ["cluster"], "samples/occupancy": ["cluster"], "jacobian/singular": ["singular value"],
            "weights/moved": ["parameter"],
        },
        {"seed": 0, "generator": {"name": "DCGAN"}, "rules": []},
    )  # fmt: skip
    trace = Trace(header)
    for k in range(readings):
        share = np.full(clusters, 1.0)
        share[0] += k
        share /= share.sum()
        drive = share**1.5 / (share**1.5).sum()
        amplification = np.outer(drive, np.ones(clusters)) * 10.0**k
        amplification[:, -1] = np.nan
        trace.readings.append(
            Reading(
                100 * k, 1.0 * k, 0.02,
                {"samples/diversity": 1.0 - 0.05 * k, "drive/norm": 2.0**k, "discriminator/gap": 0.1 * k - 0.3,
                 "discriminator/real_logit": 0.1 * k, "discriminator/fake_logit": -0.1 * k, "jacobian/log_volume": -k},
                {"kernel/cluster": np.eye(clusters) * (1 + k) / readings, "transport/amplification": amplification,
                 "transport/driving": drive, "samples/occupancy": share,
                 "jacobian/singular": np.array([3.0, 1.0, 0.01]) / (1 + k), "weights/moved": np.array([1e-3, 1e-4])},
            )
        )  # fmt: skip
    return trace


def classifier(readings: int = 5, classes: int = 3) -> Trace:
    """Losses by class, and the kernel between classes."""
    names = ["cat", "dog", "a very long name of a class", "frog"][:classes]
    header = Header(
        "classifier",
        {"class": Axis("class", names, [float(c) for c in range(classes)], "class"),
         "sample": Axis("sample", [f"sample {i}" for i in range(40)], [float(i) for i in range(40)], "sample")},
        {"loss/class": ["class"], "accuracy/class": ["class"], "kernel/class": ["class", "class"],
         "kernel/suspicion": ["sample"], "kernel/samples": ["sample", "sample"]},
        {"class": "Net"},
    )  # fmt: skip
    trace = Trace(header)
    for k in range(readings):
        trace.readings.append(
            Reading(
                k, float(k), 0.01, {"loss/mean": 1 / (1 + k), "accuracy/mean": k / readings, "loss/holdout": 1.0},
                {"loss/class": np.arange(1, classes + 1) / (1 + k), "accuracy/class": np.full(classes, k / readings),
                 "kernel/class": np.eye(classes) - 0.5, "kernel/suspicion": np.linspace(0, 1, 40),
                 "kernel/samples": np.eye(40)},
            )
        )  # fmt: skip
    return trace


def unknown(readings: int = 4) -> Trace:
    """What a watch of the user's own, or a later version, may log."""
    header = Header(
        "flow",
        {"head": Axis("head", ["a$b", "c", "d"]), "place": Axis("place", ["x", "y"])},
        {"attention/entropy": ["head"], "attention/pairs": ["head", "place"], "cube": ["head", "head", "head"],
         "lost": ["nowhere"], "bent": ["head"]},
    )  # fmt: skip
    trace = Trace(header)
    for k in range(readings):
        trace.readings.append(
            Reading(
                k, float(k), 0.01, {"plain": float(k), "new/thing": 1.0, "new_thing": 2.0, "never/there": np.nan},
                {"attention/entropy": np.array([1.0, 2.0, 3.0]) * k, "attention/pairs": np.ones((3, 2)) * (k - 2),
                 "cube": np.zeros((3, 3, 3)), "lost": np.zeros(2), "bent": np.zeros(5)},
            )
        )  # fmt: skip
    return trace


def write(trace: Trace, path: Path) -> Path:
    """The log of a trace, by the public sink, alerts after the readings that raised them."""
    sink = gk.sinks.jsonl(path)
    sink.open(trace.header)
    for reading in trace.readings:
        sink.reading(reading)
        for alert in trace.alerts:
            if alert.step == reading.step:
                sink.alert(alert)
    return path
