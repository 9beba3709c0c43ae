"""The words for how good a matching is, and which way is better."""

from collections.abc import Mapping

LOWER_IS_BETTER = frozenset({"error", "difference"})
"""`error`: largest deviation from a float64 reference, or the relative one where the case says so;
`difference`: deviation from the same call without batching or sharding. All other qualities are
better the higher they are: `of_optimum`, `of_planted`: objective over the best, or the planted,
one; `objective`; `units`: share of the units recovered."""

_ERROR_FACTOR = 2.0
_ERROR_FLOOR = 1e-5
_SHARE_SLACK = 2e-3


def worse(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """Say in which words a quality has fallen by more than rounding explains.

    Errors may double, or stay below 1e-5; anything else may fall by two parts in a thousand.

    Examples:
        >>> worse({"units": 0.9, "error": 1e-6}, {"units": 1.0, "error": 2e-7})
        ['units 1 -> 0.9']
    """
    fallen = []
    for name, old in before.items():
        new = now.get(name)
        if new is None:
            fallen.append(f"{name} is gone")
        elif name in LOWER_IS_BETTER:
            if not new <= max(_ERROR_FACTOR * old, _ERROR_FLOOR):
                fallen.append(f"{name} {old:.2g} -> {new:.2g}")
        elif not new >= old - _SHARE_SLACK * abs(old):
            fallen.append(f"{name} {old:.4g} -> {new:.4g}")
    return fallen


def write(quality: Mapping[str, float]) -> str:
    """Write a quality in a few words.

    Examples:
        >>> write({"units": 1.0, "of_planted": 1.0, "error": 3.2e-7})
        'units 100.00 %, of planted 1.0000, error 3.2e-07'
    """
    forms = {"units": "units {:.2%}", "objective": "J {:.6g}"}
    words = []
    for name, value in quality.items():
        form = f"{name.replace('_', ' ')} " + ("{:.1e}" if name in LOWER_IS_BETTER else "{:.4f}")
        words.append(forms.get(name, form).format(value).replace("%", " %"))
    return ", ".join(words)
