"""Whether a request may pass: which limits apply to it, and what their windows and slots say.

``subject`` is what a limit may look at, ``rules`` the limits of a policy, ``limiter`` asks the store, ``decision`` is
the answer. All limits of a request that are known in one phase are decided in one step: it is counted in all
of them, or in none.
"""

from cachepolicy_runtime.ratelimit.counts import LimitCounts
from cachepolicy_runtime.ratelimit.decision import UNLIMITED, Decision, Outcome, RateReport
from cachepolicy_runtime.ratelimit.limiter import ADMISSION, Admitted, RateLimiter
from cachepolicy_runtime.ratelimit.rules import Limit, Limits, compile_limits
from cachepolicy_runtime.ratelimit.spending import Reservation
from cachepolicy_runtime.ratelimit.subject import NO_ADDRESS, Subject

__all__ = [
    "ADMISSION",
    "NO_ADDRESS",
    "UNLIMITED",
    "Admitted",
    "Decision",
    "Limit",
    "LimitCounts",
    "Limits",
    "Outcome",
    "RateLimiter",
    "RateReport",
    "Reservation",
    "Subject",
    "compile_limits",
]
