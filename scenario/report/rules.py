"""plan: what the invariants mean, in a few words, for people who read that one was broken."""

from __future__ import annotations

import re
from typing import Final

# docs/internals/invariants.md has where each is checked; a test compares the two.
RULES: Final = {
    "I1": "what was acknowledged, or flushed, is there",
    "I2": "each block is a linearisable register",
    "I3": "no bytes from nowhere",
    "I4": "no block is a mix of two writes",
    "I5": "one node at most serves reads of a region",
    "I6": "epochs, incarnations, terms and versions never fall; nothing is acted on before its"
    " sync",
    "I7": "a name stands for one operation",
    "I8": "a place is committed once; members hold all that was committed",
    "I9": "committed means durable on all members, and on a joiner that is proposed",
    "I10": "who answers first in an epoch has no lease left out",
    "I11": "copies are identical, with their tables of clients",
    "I12": "one leader in each term; what is applied is on a majority's disks",
    "I13": "chunklets and LD regions have one user",
    "I14": "no space is held and used by nobody",
    "I15": "numbers of volumes that are gone stay gone",
    "I18": "the cut of a snapshot is one instant",
    "I19": "a snapshot has what ended before its call, nothing from after its answer",
    "I20": "read-only snapshots never change",
    "I21": "copies have the same snapshots",
    "I22": "a difference misses no byte",
    "I25": "no reply of an epoch leaves before it is active",
    "I26": "after healing all is redundant, and all is answered",
    "I27": "with one fault near it, or none, no host waits long",
    "I28": "what disks spoil is mended, and never lost",
    "I30": "logs, parked records and waiting operations are bounded",
    "I31": "nothing goes to a disk before its records are synced",
    "I32": "copies are on different nodes and domains, members of a mirror on different disks",
    "I33": "a snapshot gains exceptions in named ways only",
    "I34": "what an operator forced is what was reported lost",
}


def rule_of(text: str) -> str:
    """`I5: …` of the first rule that the text names; "" when it names none that is known."""
    for name in re.findall(r"\bI\d+\b", text):
        if name in RULES:
            return f"{name}: {RULES[name]}"
    return ""
