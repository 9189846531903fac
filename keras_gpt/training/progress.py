"""One-line progress messages."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Returns a duration as `45s`, `3m05s` or `2h07m`."""
    whole = max(int(round(seconds)), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def training_line(
    *,
    step: int,
    steps: int,
    loss: float,
    learning_rate: float,
    gradient_norm: float,
    tokens_per_second: float,
    peak_share: float | None,
    seconds_left: float,
) -> str:
    """Returns the line of a logged step.

    `loss` is in nats per token; `peak_share` is of the devices' matrix-product speed.
    """
    peak = f" ({peak_share:.0%} of peak)" if peak_share is not None else ""
    return (
        f"step {step}/{steps}  loss {loss:.4f}  lr {learning_rate:.2e}  "
        f"gradient norm {gradient_norm:.2f}  {tokens_per_second:,.0f} tokens/s{peak}  "
        f"{format_duration(seconds_left)} left"
    )


def evaluation_line(*, step: int, steps: int, loss: float, best: float) -> str:
    """Returns the line of an evaluation. Losses are in nats per token."""
    return f"step {step}/{steps}  validation loss {loss:.4f}  best {best:.4f}"
