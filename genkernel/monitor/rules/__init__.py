"""Rules: what a trace shows."""

from genkernel.monitor.rules.change_point import ChangePoint
from genkernel.monitor.rules.defaults import default_rules
from genkernel.monitor.rules.rule import Judge, Rule, replay

__all__ = ["ChangePoint", "Judge", "Rule", "default_rules", "replay"]
