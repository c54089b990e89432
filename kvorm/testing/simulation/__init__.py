"""A deterministic simulation of NATS: kvorm's own code over a simulated network and JetStream, in virtual time.

`run(seed)` plays one history: some clients, faults at random, checks at the end. The same seed shows the same again.
"""

from __future__ import annotations

from kvorm.testing.simulation.checks import Violation
from kvorm.testing.simulation.history import Report, run
from kvorm.testing.simulation.traits import Traits

__all__ = ["Report", "Traits", "Violation", "run"]
