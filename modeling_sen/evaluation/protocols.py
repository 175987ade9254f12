# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Public evaluation protocols as data: frames, crops, templates and averaging, each taken from the protocol's own code.

A model's accuracy differs by points between protocols, so results name protocol and version.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:  # a command's help lists the protocols without loading the model stack
    from modeling_sen.configuration_sen import NeuronSpec
    from modeling_sen.processing_sen import SENProcessor

MEDIA = ("photo", "video", "example", "demonstration")
BARE = ("{}",)
A_VIDEO_OF = ("a video of {}",)
# The 28 templates of Open-VCLIP and Perception Encoder for Kinetics, and CLIP's 48 for UCF101 and HMDB51, as products. "a
# example" is their spelling.
KINETICS_28 = tuple(
    f"a {medium} of {words}{{}}."
    for medium in MEDIA
    for words in (
        "",
        *(f"a person {verb}" for verb in ("", "using ", "doing ", "during ", "performing ", "practicing ")),
    )
)
ACTIONS_48 = tuple(
    f"a {medium} of {person} person {verb}{{}}."
    for verb in ("", "using ", "doing ", "during ", "performing ", "practicing ")
    for person in ("a", "the")
    for medium in MEDIA
)

# Values of `--dataset`.
DATASETS = ("hmdb51", "ucf101", "ucf101-51va", "kinetics-400", "kinetics-600", "ssv2")


@dataclass(frozen=True)
class Protocol:
    """Settings by which scores are computed from clips.

    Attributes:
        name, version: printed with each result; the version is increased when results could change.
        num_frames: frames per view for image towers; video towers keep the number they were built for. `None`: as in the SEN.
        sampling: a rule of `SAMPLING_RULES` per temporal view; empty for one view with the sampling of the SEN's neurons.
        resize: shorter side before the crop, relative to the tower's input; `None` for each neuron's own preprocessing.
        squash: whether to resize both sides to the input size without a crop, ignoring the aspect ratio.
        resample: filter for resizing.
        templates: data set -> texts with `{}` for the class name; "" is for all others.
        aggregation: values averaged over views: "probabilities" or "logits".
        hub_datasets: data set -> (id, commit) on the Hub, for protocols on Hub data sets.
        source: source code of the protocol.
        differs: differences from the source.
    """

    name: str
    version: int
    num_frames: int | None
    sampling: tuple[str, ...]
    templates: Mapping[str, tuple[str, ...]]
    aggregation: str
    source: str
    differs: str
    resize: float | None = None
    squash: bool = False
    resample: Image.Resampling = Image.Resampling.BILINEAR
    hub_datasets: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def templates_for(self, dataset: str | None) -> tuple[str, ...]:
        """Templates for a data set, else the general ones."""
        return self.templates.get(dataset or "", self.templates[""])


X_CLIP_DIFFERS = (
    "resized by Pillow with antialiasing instead of OpenCV without; the last clip of an odd number is not dropped "
    "(there: drop_last with batches of 2)"
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="xclip",
            version=1,
            num_frames=32,
            sampling=("uniform",),
            resize=256 / 224,
            templates={"": BARE},
            aggregation="probabilities",
            source="github.com/microsoft/VideoX, X-CLIP/{main.py, datasets/build.py, utils/tools.py, configs/*/16_32.yaml}",
            differs=X_CLIP_DIFFERS,
        ),
        Protocol(
            name="vifi",
            version=1,
            num_frames=32,
            sampling=("uniform",),
            resize=256 / 224,
            templates={"": BARE},
            aggregation="probabilities",
            source="github.com/muzairkhattak/ViFi-CLIP@e2d1948, {main.py, datasets/build.py, datasets/pipeline.py, "
            "trainers/vificlip.py, configs/zero_shot/eval}",
            differs=X_CLIP_DIFFERS,
        ),
        Protocol(
            name="openvclip",
            version=1,
            num_frames=8,
            sampling=("window-of-3:1", "window-of-3:2", "window-of-3:3"),
            resize=1.0,
            templates={"": KINETICS_28},
            aggregation="logits",
            source="github.com/wengzejia1/Open-VCLIP@047a817, {script/testing/temporal_test_b16, "
            "configs/Kinetics/TemporalCLIP_vitb16_8x16_STAdapter.yaml, slowfast/datasets/{kinetics,decoder}.py, "
            "slowfast/models/temporalclip_video_model.py}",
            differs="windows are cut by frame number as its decoder does with whole videos; for long ones it seeks by time, "
            "which may move a window by a frame; the crop of an odd border is one pixel higher",
        ),
        Protocol(
            name="pe",
            version=1,
            num_frames=8,
            sampling=("linspace",),
            resize=1.0,
            squash=True,
            templates={"": KINETICS_28, "ucf101": ACTIONS_48, "hmdb51": ACTIONS_48},
            aggregation="logits",
            source="github.com/facebookresearch/perception_models@3e352cc, apps/pe/clip_benchmark/{datasets/"
            "video_classification_dataset.py, datasets/en_zeroshot_classification_templates.json, "
            "metrics/zeroshot_classification.py}, core/vision_encoder/transforms.py",
            differs="Something-Something V2 gets the Kinetics templates instead of ImageNet's; its own class name files for "
            "UCF101 and HMDB51 are not public",
        ),
        Protocol(
            name="mteb",
            version=1,
            num_frames=8,
            sampling=("linspace-rounded",),
            templates={"": A_VIDEO_OF},
            aggregation="logits",
            source="mteb 2.26.24, {tasks/zeroshot_classification/eng/*.py, models/modality_collators.py, "
            "models/model_implementations/xclip_models.py}",
            hub_datasets={
                "hmdb51": ("mteb/HMDB51", "7f9af5438a855e9348fb23ecb5ec740a9c21daf3"),
                "kinetics-400": ("mteb/kinetics-400", "e5b93b6eae80b8c9e9c88a381baae84d29b34fd2"),
                "kinetics-600": ("mteb/kinetics-600", "a7be893c873e39341a96753e99bfd7b7025aaaf9"),
                "ucf101-51va": ("mteb/UCF101-51VA", "866b006d84629d66d9927646db89bd43381925e7"),
            },
            differs="frames as its X-CLIP wrapper takes them; other wrappers take others",
        ),
        Protocol(
            name="own",
            version=1,
            num_frames=None,
            sampling=(),
            templates={"": A_VIDEO_OF},
            aggregation="logits",
            source="this package: frames and preprocessing as the checkpoint says",
            differs="not a public protocol",
        ),
    )
}


def find_protocol(name: str, dataset: str | None = None) -> Protocol:
    """The protocol with a name.

    Raises:
        ValueError: no such protocol, or no such data set among `DATASETS`.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r}, expected one of {', '.join(PROTOCOLS)}")
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"dataset {dataset!r}, expected one of {', '.join(DATASETS)}")
    return PROTOCOLS[name]


def protocol_processors(processor: "SENProcessor", protocol: Protocol) -> "list[SENProcessor]":
    """A processor per temporal view: the SEN's processor with the protocol's sampling and preprocessing.

    Neurons keep their means, standard deviations and gray setting. Sound is that of the sampled span. Depth and thermal maps
    keep their preprocessing.
    """
    return [_view_processor(processor, protocol, rule) for rule in protocol.sampling] or [processor]


def _view_processor(processor: "SENProcessor", protocol: Protocol, rule: str) -> "SENProcessor":
    config = copy.deepcopy(processor.config)
    config.neurons = [_as_protocol(spec, processor, protocol, rule).to_dict() for spec in config.neuron_specs]
    return type(processor)(config, processor.source)


def _as_protocol(spec: "NeuronSpec", processor: "SENProcessor", protocol: Protocol, rule: str) -> "NeuronSpec":
    if not spec.takes_frames:
        return spec
    spec = replace(
        spec, sampling=rule, num_frames=protocol.num_frames if spec.modality == "image" else spec.num_frames
    )
    if protocol.resize is None or spec.modality not in ("image", "video"):
        return spec
    height, width = processor.frame_size(spec.name)
    cut: dict[str, object] = {"size": [height, width], "crop": None}
    if not protocol.squash:
        cut = {"size": int(protocol.resize * min(height, width)), "crop": [height, width]}
    return replace(spec, preprocessing={**(spec.preprocessing or {}), **cut, "resample": int(protocol.resample)})
