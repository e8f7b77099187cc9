"""What it is worth to keep a blob: a number that says who goes first, the lowest. Pure.

Every time a blob is asked for counts one, and half of that after `HALF_LIFE`, a quarter after two
of them and so on (LRFU: Lee et al., 2001). So that nothing has to be counted anew as time goes by,
a score is the logarithm of that sum, in half-lives since the epoch: what was asked for once has
the time of that as its score; what was asked for eight times at once, that of three half-lives
later. Two scores keep their order for ever, and so an index over them stays right.

To this comes what a byte saves: to fetch anything costs a request besides its bytes, so that what
is small is worth more for each byte, and manifests go last, but not for ever; and what comes from
a slow upstream costs more time (`costs.py`). And two things make a
blob worth less, whatever its score: it has been superseded (what tags meant it mean something
else now), or the images that it belongs to are not here in whole any more.

`tests/bench/simulate` plays it against other rules; README.md has what came out.
"""

import math

from mirror.oci.digest import Digest

HALF_LIFE = 7 * 86400.0  # seconds
REQUEST = 8 * 2**20  # bytes that could be fetched in place of one more request
SUPERSEDED = 4.0  # half-lives that it counts less
BROKEN = 2.0  # ... until it is asked for again
_MOST_USES = 24.0  # half-lives that being asked for ever so often counts
REMEMBERED = 6.0  # half-lives after which the score of what has gone has no weight


def asked(score: float | None, at: float) -> float:
    """The score of what had this one (None: was never asked for), and is asked for at a time.

    `at` in seconds since the epoch.
    """
    this = at / HALF_LIFE
    if score is None:
        return this
    high, low = (score, this) if score > this else (this, score)
    return high + math.log2(1.0 + 2.0 ** (low - high))


def rank(
    score: float, size: int, is_superseded: int = 0, is_broken: int = 0, slowness: float = 1.0
) -> float:
    """By this it is decided who goes first. `size` in bytes; `slowness` is that of its upstream.

    The other two are true or false.
    """
    saved = math.log2(slowness + REQUEST / max(size, 1))
    return score + saved - SUPERSEDED * is_superseded - BROKEN * is_broken


def settled(score: float, ahead: float) -> float:
    """The score of what was asked for by a clock that turned out to be so many seconds ahead."""
    return score - ahead / HALF_LIFE


def uses(score: float, now: float) -> float:
    """What all times that it was asked for count now: one just now is one."""
    return math.exp2(min(score - now / HALF_LIFE, 64.0))


def incredible(now: float) -> float:
    """The score above which something was asked for by a clock that was ahead."""
    return now / HALF_LIFE + _MOST_USES


def forgotten(now: float) -> float:
    """The score below which it makes no difference that something was asked for before."""
    return now / HALF_LIFE - REMEMBERED


def short_name(digest: Digest) -> int:
    """What the score of what has gone is remembered by. Where two are the same, no harm is done."""
    return int.from_bytes(bytes.fromhex(digest.encoded[:16]), "big", signed=True)
