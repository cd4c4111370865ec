"""Quantities as Kubernetes writes them, ``500m`` or ``2Gi``, and `resourceFieldRef`'s divisions. Pure."""

import math
import re
from decimal import Decimal

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
}  # fmt: skip


def amount(quantity: str | int | float) -> Decimal:
    """What a quantity is, in units of one."""
    found = re.fullmatch(r"([-+0-9.eE]+?)([numkMGT]i?|Ki)?", str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity")
    return Decimal(found[1]) * _SUFFIXES[found[2] or ""]


def divided(quantity: str, divisor: str) -> str:
    """How often the divisor goes into a quantity, rounded up, as the kubelet writes it."""
    return str(math.ceil(amount(quantity) / (amount(divisor) or 1)))
