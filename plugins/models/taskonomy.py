"""The Taskonomy encoders: one architecture, trained on each of 25 tasks, and untrained.

``taskonomy/TASK`` takes images as the networks were trained, squashed to 256 x 256 with values in [-1, 1];
``@imagenet224`` as Conwell et al. (2020) gave them, which is 224 x 224 with ImageNet normalisation. ``@latent`` is the
encoder's output alone, ``@latent-imagenet224`` both. ``taskonomy/encoder-random`` is the encoder untrained, seed 0, ``@3`` seed
3, ``@latent-3`` its output alone.

Tasks and networks: Zamir et al. (2018). Weights in torch's format: Sax et al. (2018). Clusters: Conwell et al. (2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from mousebench import Spec, hookimpl


@dataclass(frozen=True)
class Task:
    """What one encoder was trained for.

    Attributes
    ----------
    cluster : str or None
        In the 2020 code of Conwell et al.: 2D, 3D, Semantic, Geometric, Other; colorization has none.
    goal : str
    sha256 : str
        Of the published weights file.
    images : int
        How many images the whole network takes; the encoder sees one of them.
    channels : int
        Of the encoder's input: 3, or 1 for lightness.
    """

    cluster: str | None
    goal: str
    sha256: str
    images: int = 1
    channels: int = 3


# fmt: off
ENCODERS: Mapping[str, Task] = {
    "autoencoding": Task("2D", "compress the image and restore it", "e35146c09253720e97c0a7f8ee4e896ac931f5faa1449df003d81e6089ac6307"),
    "class_object": Task("Semantic", "name the object, 1000 classes", "4a4e42dad58066039a0d2f9d128bb32e93a7e4aa52edb2d2a07bcdd1a6536c18"),
    "class_scene": Task("Semantic", "name the place", "ad85764467cddafd98211313ceddebb98adf2a6bee2cedfe0b922a37ae65eaf8"),
    "colorization": Task(None, "colour a grey image", "5ed817acdd28d13e443d98ad15ebe1c3059a3252396a2dff6a2090f6f86616a5", channels=1),
    "curvature": Task("3D", "curvature of the surfaces", "3767cf5d06d9c6bca859631eb5a3c368d66abeb15542171b94188ffbe47d7571"),
    "denoising": Task("Other", "remove added noise", "b64cab95af4a2c565066a7e8effaf37d6586c3b9389b47fff9376478d849db38"),
    "depth_euclidean": Task("3D", "distance from the camera's centre", "88f18d41313de7dbc88314a7f0feec3023047303d94d73eb8622dc40334ef149"),
    "depth_zbuffer": Task("3D", "distance from the camera's plane", "cc343a8ed622fd7ee3ce54398be8682bbbbfb5d11fa80e8d03a56a5ae4e11b09"),
    "edge_occlusion": Task("3D", "edges where one thing hides another", "5ac3f3e918131f61e01fe95e49f462ae2fc56aa463f8d353ca84cd4e248b9c08"),
    "edge_texture": Task("2D", "edges of the image", "be2d686a6a4dfebe968d16146a17176eba37e29f736d5cd9a714317c93718810"),
    "egomotion": Task("Geometric", "motion of the camera between views", "9aa647c34bf98f9e491e0b37890d77566f6ae35ccf41d9375c674511318d571c", images=3),
    "fixated_pose": Task("Geometric", "pose of the camera, same point in both views", "78cf321518abc16f9f4782b9e5d4e8f5d6966c373d951928a26f872e55297567", images=2),
    "inpainting": Task("2D", "fill in the masked middle", "bf96fbaaea9268a820a19a1d13dbf6af31798f8983c6d9203c00fab2d236a142"),
    "jigsaw": Task("Geometric", "put shuffled tiles in order", "0c2b342c9080f8713c178b04aa6c581ed3a0112fecaf78edc4c04e0a90516e39"),
    "keypoints2d": Task("2D", "keypoints of the image", "6b77695acff4c84091c484a7b128a1e28a7e9c36243eda278598f582cf667fe0"),
    "keypoints3d": Task("3D", "keypoints of the surfaces", "7e3f1ec97b82ae30030b7ea4fec2dc606b71497d8c0335d05f0be3dc909d000d"),
    "nonfixated_pose": Task("Geometric", "pose of the camera, different points in the views", "3433a600ca9ff384b9898e55d86a186d572c2ebbe4701489a373933e3cfd5b8b", images=2),
    "normal": Task("Other", "direction of the surfaces", "f5e2c7737e4948e3b2a822f584892c342eaabbe66661576ba50db7cdd40561c5"),
    "point_matching": Task("Geometric", "whether two views show the same point", "4bd2a6b2909d9998fabaf0278ab568f42f2b692a648e28555ede6c6cda5361f4", images=2),
    "reshading": Task("3D", "shading under a light at the camera", "de456246e171dc8407fb2951539aa60d75925ae0f1dbb43f110b7768398b36a6"),
    "room_layout": Task("Geometric", "the box that the room is", "1e1662f43b834261464b1825227a04efba59b50cc8883bee9adc3ddafd4796c1"),
    "segment_semantic": Task("Semantic", "name the object at each pixel", "bb3007244520fc89cd111e099744a22b1e5c98cd83ed3f116fbff6376d220127"),
    "segment_unsup25d": Task("3D", "group pixels by colour, depth and surface", "7d12d2500c18c003ffc23943214f5dfd74932f0e3d03dde2c3a81ebc406e31a0"),
    "segment_unsup2d": Task("2D", "group pixels by colour", "b679053a920e8bcabf0cd454606098ae85341e054080f2be29473971d4265964"),
    "vanishing_point": Task("Geometric", "three vanishing points", "afd2ae9b71d46a54efc5231b3e38ebc3e35bfab78cb0a78d9b75863a240b19a8"),
}
# fmt: on

TASKS: Mapping[str, str | None] = {name: task.cluster for name, task in ENCODERS.items()}
"""Task to cluster; the model is ``taskonomy/TASK``."""

SCORED_24 = tuple(name for name in ENCODERS if name != "colorization")
"""The tasks that the 2020 code scores; its encoder cannot hold the weights of colorization, whose input is one channel."""

PAPER_21 = tuple(name for name, task in ENCODERS.items() if task.images == 1)
"""The single-image tasks of Zamir et al. (2018); the paper says 21 tasks without naming them, so that these are they is inferred."""

RANDOM = "encoder-random"
_VARIANTS = {
    None: (False, False),
    "latent": (True, False),
    "imagenet224": (False, True),
    "latent-imagenet224": (True, True),
}


@hookimpl
def mousebench_models():
    """Declare the encoders."""
    for name, task in ENCODERS.items():
        yield Spec(
            f"taskonomy/{name}",
            load=partial(load, name),
            description=f"Taskonomy, {task.cluster or 'no'} cluster: {task.goal}; @latent: the output only",
            metadata=metadata(name),
            architecture=partial(load_architecture, name),
            missing=partial(missing, name),
        )
    yield Spec(
        f"taskonomy/{RANDOM}",
        load=load_random,
        description="Taskonomy, untrained, seed 0; @K: seed K; @latent: the output only",
        metadata=metadata(RANDOM),
    )


def metadata(name: str) -> dict[str, str | int]:
    """Return what is known of ``taskonomy/NAME`` without loading it.

    ``depth`` counts convolutions, those of shortcuts too; ``layers`` are those of the untrained encoder, of 179 calls: in a trained
    one, one more may equal an earlier one.
    """
    task = ENCODERS.get(name)
    known: dict[str, str | int] = {
        "parameters": 23_655_504 if task is None or task.channels == 3 else 23_649_232,
        "depth": 54,
        "layers": 162,
        "input_size": "256 x 256",
    }
    if task is None:
        return {**known, "training": "none"}
    return {**known, "training": f"Taskonomy: {task.goal}", "cluster": task.cluster or "none"}


def weights_file(task: str) -> str:
    """Return the name of the published weights file of a task; it ends in the file's sha256."""
    return f"{task}_encoder-{ENCODERS[task].sha256}.pth"


def missing(task: str) -> str:
    """Say whether the weights file of a task is not on this machine yet."""
    from mousebench.home import torch_checkpoints

    return "" if (torch_checkpoints() / weights_file(task)).is_file() else "weights"


def load(task: str, variant: str | None = None):
    """Return the encoder of a task, with its published weights.

    Raises
    ------
    MissingData
        If the weights file is not on this machine and cannot be downloaded.
    StoreError
        If it is not the published one.
    """
    from mousebench_plugins.models._taskonomy import trained

    latent, imagenet = _choices_of(task, variant)
    return trained(task, latent=latent, imagenet=imagenet)


def load_architecture(task: str, variant: str | None = None):
    """Return the same encoder and preprocessing untrained, for weights from elsewhere."""
    from mousebench_plugins.models._taskonomy import untrained

    latent, imagenet = _choices_of(task, variant)
    return untrained(0, latent=latent, imagenet=imagenet, channels=ENCODERS[task].channels)


def _choices_of(task: str, variant: str | None) -> tuple[bool, bool]:
    known = [name for name in _VARIANTS if name == "latent" or ENCODERS[task].channels == 3]
    return _choices(f"taskonomy/{task}", variant, known)


def load_random(variant: str | None = None):
    """Return the untrained encoder; the variant is its seed, or ends in it."""
    from mousebench_plugins.models._taskonomy import untrained

    start, _, end = (variant or "").rpartition("-")
    seed = int(end) if end.isdecimal() and end == str(int(end)) else None
    rest = variant if seed is None else start or None
    latent, imagenet = _choices(f"taskonomy/{RANDOM}", rest, list(_VARIANTS), asked=variant)
    return untrained(seed or 0, latent=latent, imagenet=imagenet)


def _choices(model: str, variant: str | None, known: list[str | None], asked: str | None = None) -> tuple[bool, bool]:
    """Return whether the latent space alone, and whether the preprocessing of 2020, is asked for."""
    from mousebench.errors import UnknownIdentifier

    if variant is not None and variant not in known:
        names = ", ".join(repr(name) for name in known if name)
        seeds = ", a seed such as '3', or 'latent-3'" if model.endswith(RANDOM) else ""
        raise UnknownIdentifier(
            f"model {model!r} has no variant {asked or variant!r}", f"its variants are {names}{seeds}"
        )
    return _VARIANTS[variant]
