"""The contract between the CachePolicy operator and the runtime in Core.

Spec models, the policy document, acknowledgements, key names and purge stamps. It needs nothing but pydantic.
"""

from cachepolicy.acknowledgement import Acknowledgement, Member
from cachepolicy.document import (
    DocumentError,
    Endpoint,
    PolicyDocument,
    Reading,
    build_document,
    read_document,
)
from cachepolicy.durations import Duration
from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy.quantities import Quantity
from cachepolicy.spec import CachePolicySpec, parse_spec

__all__ = [
    "Acknowledgement",
    "CachePolicySpec",
    "DocumentError",
    "Duration",
    "Endpoint",
    "Identity",
    "KeyLayout",
    "Member",
    "PolicyDocument",
    "Quantity",
    "Reading",
    "Role",
    "build_document",
    "parse_spec",
    "read_document",
]
