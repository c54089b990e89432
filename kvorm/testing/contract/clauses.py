"""The list of clauses: what each promises, in one line, and what a check of it needs."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

Needs: TypeAlias = Literal["store", "server", "proxy"]
"""Any store; a real server, be it one or a cluster; a server behind a proxy."""


class Clause(NamedTuple):
    """One promise, and where its checks run; those that run on any store run on all the others too."""

    number: str
    text: str
    needs: tuple[Needs, ...] = ("store",)


CLAUSES: Final[tuple[Clause, ...]] = (
    Clause("W1", "a save that returned is stored exactly once, at the revision returned", ("store", "proxy")),
    Clause("W2", "a save that raised ConflictError stored nothing"),
    Clause("W3", "only StoreTimeoutError and a cancellation leave open whether a write is stored", ("proxy",)),
    Clause("W4", "a revision must be the latest; ABSENT means no live value; ANY always stores"),
    Clause("W5", "every refused expectation is a ConflictError that carries what is there"),
    Clause("W6", "a failed write leaves the object as it was, a successful one changes its stamp alone"),
    Clause("W7", "n workers doing m checked increments leave n times m"),
    Clause("W8", "what cannot be stored is refused before anything is sent", ("store", "server")),
    Clause("W9", "bulk writes keep these promises for each item, and tell by index"),
    Clause("W10", "nothing is stored that its own class cannot read back under the same key"),
    Clause("W11", "a write is never sent after it was reported as not stored", ("proxy",)),
    Clause("R1", "get returns the latest live value"),
    Clause("R2", "a read sees what was acknowledged before it started"),
    Clause("R3", "get(revision=) returns exactly that revision of that key"),
    Clause("R4", "history is every kept entry and marker of a key, as of one moment"),
    Clause("R5", "lists have every key that lived throughout, once, and none that lived at no time"),
    Clause("R6", "get_many answers in the order asked"),
    Clause("R7", "bytes that are no valid model raise DecodeError and hide nobody else"),
    Clause("R8", "a foreign key counts exactly if it is canonical"),
    Clause("S1", "revisions rise between two Resets"),
    Clause("S2", "none comes twice between two Resets"),
    Clause("S3", "the last state of every key is delivered, whatever happened in between", ("server", "proxy")),
    Clause("S4", "CaughtUp comes once, after all that existed"),
    Clause("S5", "since= goes on after a revision, or says with a Reset that it cannot"),
    Clause("S6", "silence is never a dead watch", ("proxy",)),
    Clause("S7", "leaving ends a watch at once, and leaves nothing behind", ("store", "server")),
    Clause("S8", "a view equals the bucket, and what it hands out is the reader's"),
    Clause("E1", "a lifetime ends in a marker where the bucket keeps markers"),
    Clause("E2", "an older revision never comes back because a newer one expired"),
    Clause("I1", "keys and values are those of a plain KV bucket", ("store", "server")),
    Clause("I2", "the encoding of keys is injective both ways, and no value acts as a wildcard"),
    Clause("I3", "a model comes back as it was"),
    Clause("C1", "nothing happens at import"),
    Clause("C2", "closing a store ends what it started, and no more", ("store", "server")),
    Clause("C3", "no call leaves a task or a consumer behind", ("store", "server")),
)
