"""Buckets on a NATS server or cluster: the only code that knows nats-py and JetStream."""

from kvorm.backends.nats.backend import NatsBackend
from kvorm.backends.nats.connecting import Reports, connect

__all__ = ["NatsBackend", "Reports", "connect"]
