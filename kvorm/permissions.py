"""Least privilege: the NATS permissions that repositories need."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from kvorm.backends.nats.permissions import publishes, subscribes
from kvorm.model import compile_model


@dataclass(frozen=True, slots=True)
class Permissions:
    """What to allow a NATS user: everything else can be denied.

    Attributes:
        publish, subscribe: subjects, as they stand in the server's configuration.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def __str__(self) -> str:
        """Return them as a block for the server's configuration."""
        publish, subscribe = (", ".join(f'"{subject}"' for subject in each) for each in (self.publish, self.subscribe))
        return f"permissions: {{ publish: {{ allow: [{publish}] }}, subscribe: {{ allow: [{subscribe}] }} }}"


def permissions(
    *models: type[BaseModel],
    write: bool = True,
    manage: bool = False,
    namespace: str = "",
    domain: str | None = None,
    inbox_prefix: str = "_INBOX",
) -> Permissions:
    """Return what a user needs for repositories of these models.

    Give each user an inbox of its own (`inbox_prefix=` here and in `connect`): whoever may subscribe to `_INBOX.>`
    reads the answers of all others (hazard H29).

    Args:
        models: of `kvorm.Model`, with their own buckets.
        write: may save, delete, purge and restore.
        manage: may create and change the buckets.
        namespace: as for `connect`.
        domain: as for `connect`, for a user of a server outside of the domain; a server of the domain itself takes it
            off the subjects before it looks at the rights, so leave it out there.
        inbox_prefix: what its inbox begins with.

    Raises:
        ModelError: a class is declared wrongly.
    """
    mappings = [compile_model(model) for model in models]
    publish = [
        subject
        for mapping in mappings
        for subject in publishes(
            namespace + mapping.bucket.name, mapping.shape.filter({}), write=write, manage=manage, domain=domain
        )
    ]
    subscribe = [subject for mapping in mappings for subject in subscribes(namespace + mapping.bucket.name)]
    return Permissions(tuple(dict.fromkeys(publish)), (f"{inbox_prefix}.>", *dict.fromkeys(subscribe)))
