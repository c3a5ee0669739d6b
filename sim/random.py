"""plan: random numbers of our own: the same on every Python and machine, one stream per purpose.

The generator is PCG XSL-RR 128/64 (O'Neill 2014): one wide multiplication per draw is what plain
Python does fastest. Every method here is integer arithmetic, so no library version can move a seed;
words are drawn ahead many at a time by the same generator of numpy, and a test compares the two.
Methods of `random.Random` that are not defined here (gauss and the like) go through floats of the
C library: deciding code must not use them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import MutableSequence, Sequence
from typing import Any, Final, TypeVar

import numpy as np

T = TypeVar("T")

_MASK64: Final = (1 << 64) - 1
_MASK128: Final = (1 << 128) - 1
_MULTIPLIER: Final = 0x2360ED051FC65DA44385DF649FCCF645  # PCG's 128-bit constant
_UNIT: Final = 1 << 32  # one mean in the fixed point of `exponential`
_AHEAD_BY_HAND: Final = 4  # below it asking numpy costs more than it saves
_AHEAD_MAX: Final = 256
_wide = np.random.PCG64(0)  # set to the state of whoever draws ahead


class SimRandom(random.Random):
    """A stream of seeded draws; usable wherever a `random.Random` is asked for.

    seed: any non-negative integer below 2**256: the low half is the state, the high half chooses
    one of 2**127 sequences.
    """

    ahead: list[int]  # words that were drawn ahead: the last one is the next
    _state: int  # behind them
    _before: int  # as they were drawn
    _drawn: int  # how many they were
    _increment: int

    def __init__(self, seed: int) -> None:
        self.ahead = []
        super().__init__(seed)

    def seed(self, a: Any = 0, version: int = 2) -> None:
        """Start over. Only integers: hashing anything else would depend on the Python version."""
        if not isinstance(a, int) or not 0 <= a < 1 << 256:
            raise TypeError(f"a simulation is seeded by an integer in 0..2**256-1, not by {a!r}")
        self._increment = ((a >> 127) | 1) & _MASK128
        state = (self._increment + (a & _MASK128)) * _MULTIPLIER + self._increment & _MASK128
        self._begin_at(state)

    def _begin_at(self, state: int) -> None:
        self._state = self._before = state
        self._drawn = 0
        self.ahead.clear()

    def next64(self) -> int:
        """The next 64 bits."""
        ahead = self.ahead
        return ahead.pop() if ahead else self._draw_ahead()

    def _draw_ahead(self) -> int:
        """The next word when none is left; more with each time: most streams are short."""
        self._before = self._state
        count = self._drawn = min(2 * self._drawn or 1, _AHEAD_MAX)
        if count < _AHEAD_BY_HAND:
            words = [self._step() for _ in range(count)]
            words.reverse()
        else:
            both = {"state": self._state, "inc": self._increment}
            here: Any = {"bit_generator": "PCG64", "state": both, "has_uint32": 0, "uinteger": 0}
            _wide.state = here
            words = _wide.random_raw(count)[::-1].tolist()
            self._state = _wide.state["state"]["state"]
        self.ahead.extend(words)
        return self.ahead.pop()

    def _step(self) -> int:
        state = self._state = (self._state * _MULTIPLIER + self._increment) & _MASK128
        word = (state >> 64) ^ (state & _MASK64)
        rotation = state >> 122
        return (word >> rotation | word << (64 - rotation)) & _MASK64

    def getrandbits(self, k: int, /) -> int:
        """k random bits, k >= 0."""
        if k < 0:
            raise ValueError("number of bits must be non-negative")
        bits = 0
        for _ in range((k + 63) // 64):
            bits = bits << 64 | self.next64()
        return bits >> (-k % 64)

    def random(self) -> float:
        """In [0, 1), a multiple of 2**-53: exact on every machine."""
        return (self.next64() >> 11) * 2.0**-53

    def below(self, bound: int) -> int:
        """Uniform in 0..bound-1 without bias (Lemire 2019), 1 <= bound."""
        if bound <= 0:
            raise ValueError(f"empty range: nothing is below {bound}")
        if bound > _MASK64:
            bits = bound.bit_length()
            while True:  # each turn ends the loop with a chance above one half
                draw = self.getrandbits(bits)
                if draw < bound:
                    return draw
        ahead = self.ahead
        product = (ahead.pop() if ahead else self._draw_ahead()) * bound
        if (product & _MASK64) < bound:
            threshold = (1 << 64) % bound
            while (product & _MASK64) < threshold:
                product = self.next64() * bound
        return product >> 64

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """As in `random.Random`, integers only."""
        if stop is None:
            return self.below(start)
        if step == 1:
            return start + self.below(stop - start)
        return start + step * self.below(len(range(start, stop, step)))

    def randint(self, a: int, b: int) -> int:
        """Uniform in a..b, both included."""
        return a + self.below(b - a + 1)

    def chance(self, numerator: int, denominator: int) -> bool:
        """True with that probability, which is a ratio of integers."""
        return self.below(denominator) < numerator

    def choice(self, seq: Sequence[T]) -> T:  # type: ignore[override]
        """One of a non-empty sequence."""
        if not len(seq):
            raise IndexError("cannot choose from an empty sequence")
        return seq[self.below(len(seq))]

    def weighted(self, weights: Sequence[int]) -> int:
        """An index, with the chance of its integer weight; the weights must not all be 0."""
        draw = self.below(sum(weights))
        for index, weight in enumerate(weights):
            draw -= weight
            if draw < 0:
                return index
        raise AssertionError("the weights add up to more than their sum")

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """In place (Fisher-Yates)."""
        for last in range(len(x) - 1, 0, -1):
            other = self.below(last + 1)
            x[last], x[other] = x[other], x[last]

    def sample(  # type: ignore[override]
        self, population: Sequence[T], k: int, *, counts: None = None
    ) -> list[T]:
        """k different positions of a sequence, in random order."""
        if not 0 <= k <= len(population):
            raise ValueError(f"cannot draw {k} of {len(population)}")
        pool = list(population)
        for taken in range(k):
            other = taken + self.below(len(pool) - taken)
            pool[taken], pool[other] = pool[other], pool[taken]
        return pool[:k]

    def uniform(self, a: float, b: float) -> float:
        """a + (b - a) * random()."""
        return a + (b - a) * self.random()

    def exponential(self, mean: int) -> int:
        """An integer delay with that mean, exponentially distributed, rounded down.

        Source: von Neumann 1951: comparisons of uniform draws only, no logarithm.
        """
        whole = 0
        while True:  # ends with a chance of 0.63 per turn
            first = last = self.next64() >> 32
            odd = True
            while True:
                draw = self.next64() >> 32
                if draw >= last:
                    break
                last = draw
                odd = not odd
            if odd:
                return (whole * _UNIT + first) * mean >> 32
            whole += 1

    def expovariate(self, lambd: float = 1.0) -> float:
        """`exponential` as a float, with the mean 1 / lambd."""
        return self.exponential(_UNIT) / _UNIT / lambd

    def randbytes(self, n: int) -> bytes:
        """n random bytes."""
        return self.getrandbits(n * 8).to_bytes(n, "little")

    def getstate(self) -> tuple[int, int]:
        """For `setstate`."""
        state = self._before
        for _ in range(self._drawn - len(self.ahead)):
            state = (state * _MULTIPLIER + self._increment) & _MASK128
        return state, self._increment

    def setstate(self, state: tuple[Any, ...]) -> None:
        """Go on from what `getstate` returned."""
        here, self._increment = state
        self._begin_at(here)


class SeedStreams:
    """One independent stream per purpose, all from one integer.

    A draw more in one purpose moves no other stream, which keeps seeds and shrinks stable.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def derive(self, name: str) -> int:
        """256 bits that belong to this seed and name alone."""
        digest = hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=32).digest()
        return int.from_bytes(digest, "little")

    def stream(self, name: str) -> SimRandom:
        """The stream of a purpose, from its beginning: asking twice gives the same draws twice."""
        return SimRandom(self.derive(name))

    def child(self, name: str) -> SeedStreams:
        """A family of streams for a part, such as one node."""
        return SeedStreams(self.derive(name))
