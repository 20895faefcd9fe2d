"""Monitors: a model is watched while it trains, by a share of the training's time, without being touched.

mon = gk.Monitor(unet, scheduler=scheduler, data=probe_images, every=500, sink="monitor.jsonl")
for step, batch in enumerate(loader):
    train_step(batch)
    if alert := mon.step(step):
        print(alert.message)
"""

from genkernel.monitor import sinks
from genkernel.monitor.log import read_log
from genkernel.monitor.monitor import Monitor
from genkernel.monitor.rules import ChangePoint, Rule, default_rules, replay
from genkernel.monitor.trace import Alert, Axis, Header, Problem, Reading, Trace

__all__ = [
    "Alert", "Axis", "ChangePoint", "Header", "Monitor", "Problem", "Reading", "Rule", "Trace", "default_rules",
    "read_log", "replay", "sinks",
]  # fmt: skip
