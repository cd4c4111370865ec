"""Numbers as people read them. Pure; shared by the operator and the command line."""


def duration(seconds: float) -> str:
    """Two units at most: ``45s``, ``12m30s``, ``4h12m`` or ``3d04h``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
