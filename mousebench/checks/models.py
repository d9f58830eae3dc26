"""The checks of a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from mousebench.checks import Check, DoesNotApply
from mousebench.checks.images import N_IMAGES, layers_of, make_images
from mousebench.checks.shared import PluginChecks
from mousebench.comparison import Comparison, Named
from mousebench.errors import CheckFailed, MousebenchError, NotDeterministic, OutOfStep
from mousebench.models import as_model
from mousebench.representations import NOT_FINITE, Layers
from mousebench.scoring import score_model

SIM, SIM_SITE, SIM_METRIC = "sim-ns", "VISp.L6", "rsa-nnls"  # the site of fewest neurons: quick
SAME = 1e-6  # the same images again: nothing but rounding may differ
SAME_IN_OTHER_BATCH = 1e-3  # convolutions round differently in batches of another size


class ModelChecks(PluginChecks):
    """The checks of one model."""

    def all(self) -> list[Check]:
        """Return the checks in the order in which they are run."""
        return [
            *super().all(),
            Check("layers exist", self.layers_exist),
            Check("finite", self.finite),
            Check("deterministic", self.deterministic),
            Check("independent of batch size", self.independent_of_batch_size),
            Check("independent of image order", self.independent_of_image_order),
            Check("eval mode", self.eval_mode),
            Check("fingerprint", self.fingerprint),
            Check("fingerprint changes with the weights", self.fingerprint_changes_with_the_weights),
            Check("same in a fresh process", self.same_in_a_fresh_process),
            Check(f"scores {SIM} in range", self.scores_in_range),
        ]

    def prepare(self, thing: Any) -> Any:
        """Return a torch module as a TorchModel; a model that is made of data stays as it is."""
        return thing if hasattr(thing, "take_from") else as_model(thing)

    @property
    def model(self) -> Any:
        """The model, if images can be given to it."""
        if hasattr(self.thing, "take_from"):
            raise DoesNotApply("the model is made of a benchmark's data")
        if getattr(self.thing, "intercept_only", False):
            raise DoesNotApply("the model has no layers, on purpose")
        return self.thing

    # what images give -------------------------------------------------------------------------------------------------

    @cached_property
    def _answer(self) -> Layers | MousebenchError:
        try:
            return layers_of(self.model, make_images())
        except MousebenchError as error:
            return error

    @property
    def layers(self) -> xr.Dataset:
        """The layers of the test images; without them a check does not apply."""
        _ = self.model
        if isinstance(self._answer, MousebenchError):
            raise DoesNotApply("it gives no layers, see above")
        return self._answer.dataset

    def layers_exist(self) -> None:
        """Ask for the layers by name, and for what they answer to images."""
        names = list(self.model.layers) if not self._fails_as(NotDeterministic, OutOfStep) else ["?"]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise CheckFailed(f"layers is {names!r}", "give the names of the layers, in order of execution")
        if isinstance(self._answer, MousebenchError) and not self._fails_as(NotDeterministic, OutOfStep):
            raise self._answer

    def _fails_as(self, *kinds: type[MousebenchError]) -> bool:
        _ = self.model
        return isinstance(self._answer, kinds)

    def finite(self) -> None:
        """Refuse layers with NaN or infinite values."""
        _ = self.layers
        notes = [note for note in json.loads(self.layers.attrs["notes"]) if NOT_FINITE in note]
        if notes:
            raise CheckFailed("; ".join(notes), "look at the preprocessing and at divisions, logarithms and roots")

    def deterministic(self) -> None:
        """Pass the same images again."""
        if isinstance(self._answer, NotDeterministic):
            raise self._answer
        worst, layer = differences(self.layers, layers_of(self.model, make_images()).dataset, np.arange(N_IMAGES))
        if worst > SAME:
            raise CheckFailed(
                f"the same images give other features again: layer {layer!r} differs by {worst:.2g} of its size",
                "seed all noise, switch off dropout, keep nothing from one call to the next",
            )

    def independent_of_batch_size(self) -> None:
        """Pass the images in two batches, and all at once."""
        if isinstance(self._answer, OutOfStep):
            raise self._answer
        self._refuse_if_some_differ([np.arange(3), np.arange(3, N_IMAGES)], "in smaller batches")

    def independent_of_image_order(self) -> None:
        """Pass the images in another order."""
        self._refuse_if_some_differ([np.random.default_rng(1).permutation(N_IMAGES)], "in another order")

    def _refuse_if_some_differ(self, parts: list[np.ndarray], how: str) -> None:
        whole, images = self.layers, make_images()
        for part in parts:
            worst, layer = differences(whole, layers_of(self.model, images[part]).dataset, part)
            if worst > SAME_IN_OTHER_BATCH:
                raise CheckFailed(
                    f"images {how} give other features: layer {layer!r} differs by {worst:.2g} of its size",
                    "no statistics over the images of a batch: each image must be answered by itself",
                )

    # what the net is --------------------------------------------------------------------------------------------------

    @property
    def module(self) -> Any:
        """The torch module of the model."""
        module = getattr(self.model, "module", None)
        if module is not None:
            from torch import nn  # not for the sake of a model that is none

            if isinstance(module, nn.Module):
                return module
        raise DoesNotApply("the model is no torch net")

    def eval_mode(self) -> None:
        """See which modules are in training mode while the net computes."""
        module, training = self.module, set()

        def note(path: str) -> Callable[..., None]:
            return lambda part, _: training.add(path) if part.training else None

        handles = [part.register_forward_pre_hook(note(path)) for path, part in module.named_modules()]
        try:
            self.model.reduce(make_images().values[:3], device="cpu")
        except MousebenchError:
            pass  # that it fails is said elsewhere
        finally:
            for handle in handles:
                handle.remove()
        if training:
            names = ", ".join(sorted(path or "the net itself" for path in training)[:5])
            raise CheckFailed(
                f"in training mode while it is scored: {names}",
                "a module that overrides train() or sets self.training must follow eval()",
            )

    def fingerprint(self) -> None:
        """Refuse a fingerprint that is no mapping of texts, changes by itself, or does not know what it is."""
        _ = self.model
        told, again = self.thing.fingerprint, dict(self.thing.fingerprint)
        if not told or not all(isinstance(part, str) for pair in dict(told).items() for part in pair):
            raise CheckFailed(f"fingerprint is {told!r}", "give a mapping of texts: weights, preprocessing, size, seed")
        if dict(told) != again:
            raise CheckFailed("fingerprint changes from one look to the next", "it must follow from the model alone")
        unknown = [name for name, value in again.items() if value == "unknown"]
        if unknown:
            raise CheckFailed(
                f"fingerprint cannot tell {', '.join(unknown)}: results could not be reused, nor be told to be stale",
                "make what it cannot describe a function or class of a module file, with plain settings",
            )

    def fingerprint_changes_with_the_weights(self) -> None:
        """Change one weight and look at the fingerprint."""
        import torch

        parameter = next((some for some in self.module.parameters() if some.is_floating_point() and some.numel()), None)
        if parameter is None:
            raise DoesNotApply("the net has no weights")
        before, kept = dict(self.thing.fingerprint), parameter.detach().clone()
        try:
            with torch.no_grad():
                parameter[(0,) * parameter.ndim] += 1
            changed = dict(self.thing.fingerprint) != before
        finally:
            with torch.no_grad():
                parameter.copy_(kept)
        if not changed:
            raise CheckFailed(
                "fingerprint stays the same when a weight changes: a cached answer of other weights would be used",
                "put a hash of the weights into it, as TorchModel does",
            )

    def same_in_a_fresh_process(self) -> None:
        """Load the model in a fresh process and compare what it is and what it answers."""
        here = self.layers
        answer = self.in_fresh_process("answer")
        other = dict(self.thing.fingerprint)
        parts = [
            name for name in {**other, **answer["fingerprint"]} if other.get(name) != answer["fingerprint"].get(name)
        ]
        if parts:
            raise CheckFailed(
                f"in a fresh process the fingerprint has another {', '.join(parts)}",
                "build the net under a seeded generator, and hash nothing that changes from process to process",
            )
        names = here["layer"].values.tolist()
        if names != answer["layers"]:
            raise CheckFailed("in a fresh process it has other layers", "name layers by what they are")
        worst, layer = _worst(here["gram"].values, np.array(answer["grams"]), names)
        if worst > SAME:
            raise CheckFailed(
                f"a fresh process gives other features: layer {layer!r} differs by {worst:.2g} of its size",
                "seed everything that is drawn at random, untrained weights included",
            )

    def scores_in_range(self) -> None:
        """Score the simulated benchmark, one small site."""
        if not self.found.has("benchmarks", SIM) or not self.found.has("metrics", SIM_METRIC):
            raise DoesNotApply(f"{SIM} or {SIM_METRIC} is not installed")
        model = Named(
            self.entry.spec.identifier if self.is_function else self.identifier, self.thing, self.entry.plugin
        )
        benchmark, metric = (
            Named(name, self.found.load(kind, name), self.found.find(kind, name).plugin)
            for kind, name in (("benchmarks", SIM), ("metrics", SIM_METRIC))
        )
        if not hasattr(self.thing, "take_from") and not getattr(self.thing, "intercept_only", False):
            _ = self.layers
        result = score_model(model, Comparison(benchmark, metric, [SIM_SITE], 0), device="cpu")
        raw = float(result["raw"][0])
        if not -1 <= raw <= 1:
            notes = "; ".join(json.loads(str(result["notes"].values[0])))
            raise CheckFailed(f"raw is {raw} on {SIM}, site {SIM_SITE}: {notes}", "a correlation lies within -1 and 1")


def differences(whole: xr.Dataset, part: xr.Dataset, images: np.ndarray) -> tuple[float, str]:
    """Return how far the Grams of some of the images are from those among all, and the layer that is farthest.

    Parameters
    ----------
    whole, part : Dataset
        ``gram`` (layer, stimulus, stimulus_b).
    images : int (stimulus of the part)
        Which of the images of the whole these are.

    Returns
    -------
    float
        Largest difference, as a share of the lengths of the two feature vectors.
    str
    """
    names = [name for name in whole["layer"].values.tolist() if name in set(part["layer"].values.tolist())]
    if not names:
        raise CheckFailed("other images give other layers", "name layers by what they are")
    first, second = (
        one["gram"].values[[one["layer"].values.tolist().index(name) for name in names]] for one in (whole, part)
    )
    return _worst(first[:, images[:, None], images], second, names)


def _worst(first: np.ndarray, second: np.ndarray, names: list[str]) -> tuple[float, str]:
    length = np.sqrt(np.maximum(np.diagonal(first, axis1=1, axis2=2), np.finfo(float).tiny))
    away = (np.abs(first - second) / (length[:, :, None] * length[:, None, :])).max((1, 2))
    worst = int(away.argmax())
    return float(away[worst]), names[worst]
