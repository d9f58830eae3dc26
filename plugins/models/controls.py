"""Controls that every leaderboard needs: what low-level vision, noise, and nothing at all score.

``gabor`` is a V1-like bank of filters. ``noise`` is white noise, seed 0, ``noise@3`` the same with seed 3: more layers
give more chances to overfit, and a metric that is sound does not reward that. ``intercept-only`` has no layers: what it
scores, a metric gives away for nothing.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_models():
    """Declare the three."""
    return [
        Spec(
            "gabor", load=load_gabor, description="control: V1-like energy of Gabor filters, .02 to .32 cycles a degree"
        ),
        Spec("noise", load=load_noise, description="control: ten layers of white noise, seed 0; @K: seed K"),
        Spec("intercept-only", load=load_intercept_only, description="control: no layers, every prediction a constant"),
    ]


def load_gabor():
    """Return the filters."""
    from mousebench_plugins.models._gabor import Gabor

    return Gabor()


def load_noise(variant: str | None = None):
    """Return white noise; the variant is its seed."""
    from mousebench.specs import seed_of
    from mousebench_plugins.models._nothing import Noise

    return Noise(seed_of("noise", variant))


def load_intercept_only():
    """Return the model without layers."""
    from mousebench_plugins.models._nothing import InterceptOnly

    return InterceptOnly()
