# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENForVideoEditing: a text-to-image UNet that a SEN and an adapter make a video UNet of, to be tuned on one video.

After Tune-A-Video (arXiv 2212.11565), with dense features of a SEN as further conditions. How the paper conditions the UNet
is not public. The base model is loaded by its id and never saved; the adapter stands in a folder of its own.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils import logging

from .configuration_sen import SENConfig
from .hub_files import FETCH_ARGUMENTS, HubSource
from .modeling_sen import SENModel
from .pretrained_sen import SENPreTrainedModel
from .processing_sen import SENProcessor
from .window_features import config_for_windows, read_windows

logger = logging.get_logger(__name__)

CONDITIONING = ("residual", "cross", "residual+cross")
ADAPTER_FOLDER = "adapter"  # of a checkpoint
READABLE = ("image", "video", "depth")  # modalities whose features have a place in each frame
_APART = ("unet.", "adapter.")  # how the names of weights begin that the checkpoint's own file does not hold


class SENEditingConfig(PreTrainedConfig):
    """Configuration of a [`SENForVideoEditing`].

    Args:
        sen_config: of the SEN.
        base_model_id: hub id or folder of a pipeline of Stable Diffusion 1 or 2; `./base` is beside the checkpoint; `None`
            where the UNet was given as a model.
        base_model_revision: commit of its repository, recorded when the checkpoint is saved.
        conditioning: how the SEN's features reach the UNet: `"residual"` (maps added to the residuals of its down blocks),
            `"cross"` (attention to tokens of each frame) or `"residual+cross"`. In a small study `cross` alone stayed unused.
        read_neurons: names of the neurons whose dense features are read; by default all of images, video and depth. None of
            them for plain Tune-A-Video.
        num_frames: consecutive frames that the SEN reads as one clip.
        tuning_settings: fields of `TuningSettings` that suit the base model, in the place of the defaults.
        edit_settings: options of `SENVideoEditingPipeline.edit` that `pipeline("video-editing")` takes as defaults.
        initializer_range: standard deviation of the SEN's initial weights.

    Raises:
        ValueError: an unknown conditioning; no such neuron, or one of the wrong modality; values out of range.
    """

    model_type = "sen_editing"
    sub_configs_defaults = {"sen_config": SENConfig}  # type: ignore[dict-item]  # noqa: RUF012 (Transformers' own)

    sen_config: dict | SENConfig | None = None
    base_model_id: str | None = None
    base_model_revision: str | None = None
    conditioning: str = "residual"
    read_neurons: list[str] | None = None
    num_frames: int = 8
    tuning_settings: dict[str, Any] | None = None
    edit_settings: dict[str, Any] | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        specs = {spec.name: spec for spec in self.sen_config.neuron_specs}
        if self.read_neurons is None:
            self.read_neurons = [name for name, spec in specs.items() if spec.modality in READABLE]
        if unknown := [name for name in self.read_neurons if name not in specs]:
            raise ValueError(f"read_neurons: no neurons {unknown}, expected some of {', '.join(specs)}")
        if others := [name for name in self.read_neurons if specs[name].modality not in READABLE]:
            found = specs[others[0]].modality
            raise ValueError(f"read_neurons: {others[0]!r} reads {found}, expected neurons of {', '.join(READABLE)}")
        if self.conditioning not in CONDITIONING:
            raise ValueError(f"conditioning is {self.conditioning!r}, expected one of {', '.join(CONDITIONING)}")
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}, expected at least 1")


class SENForVideoEditing(SENPreTrainedModel):
    """A SEN, an adapter, and the UNet of a base model, which is frozen as the towers are.

    [`video_features`] gives what the adapter reads of a clip, [`predict`] runs one step of the video UNet. Gradients reach
    the adapter and, through the features, the SEN's association.
    """

    config: SENEditingConfig  # type: ignore[assignment]
    main_input_name = "latents"

    def __init__(self, config: SENEditingConfig):
        super().__init__(config)
        self.sen = SENModel(config.sen_config)  # type: ignore[arg-type]  # the base class made it a configuration
        self.adapter: Any = None
        self.unet: Any = None
        self.base_source: HubSource | None = None
        self._processor: SENProcessor | None = None
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_expect_none)
        self.post_init()

    # --- parts -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_base(
        cls,
        base: Any,
        sen: str | SENModel,
        base_model_revision: str | None = None,
        base_kwargs: Mapping[str, Any] | None = None,
        read_neurons: list[str] | None = None,
        num_frames: int = 8,
        **settings: Any,
    ) -> "SENForVideoEditing":
        """A model with an untrained adapter.

        The SEN's association is copied, its towers are shared; the SEN given stays as it is.

        Args:
            base: hub id or folder of a pipeline of Stable Diffusion, or a `UNet2DConditionModel`, which is frozen then.
            sen: hub id or folder of a SEN, or the model itself. Its image neurons read every frame of a clip, its video
                neurons as many as before. Frames are stretched to the size that a neuron takes, and nothing is cropped.
            base_model_revision: branch, tag or commit of the base model.
            base_kwargs: arguments of Diffusers' `from_pretrained`, such as `torch_dtype`.
            read_neurons, num_frames, settings: fields of [`SENEditingConfig`].

        Raises:
            ImportError: Diffusers is not installed (the extra `editing`).
            OSError, RuntimeError: the base model or the SEN cannot be found or read.
            ValueError: no UNet of Stable Diffusion 1 or 2; a neuron whose frames have no fixed size; see also
                [`SENEditingConfig`].
        """
        parts, arguments = _editing(), dict(base_kwargs or {})
        sen_model: Any = SENModel.from_pretrained(sen) if isinstance(sen, str) else sen
        sen_model.ensure_loaded()
        plain = SENEditingConfig(
            sen_config=sen_model.config.to_dict(), read_neurons=read_neurons, num_frames=num_frames
        )
        names: Any = plain.read_neurons
        where: dict[str, Any] = {}
        if isinstance(base, str):
            # A folder by its whole path: in a configuration, `./` means beside the checkpoint.
            where["base_model_id"] = os.path.abspath(base) if os.path.isdir(base) else base
            where["base_model_revision"] = base_model_revision
        config = SENEditingConfig(
            sen_config=config_for_windows(sen_model, names, num_frames),
            read_neurons=names,
            num_frames=num_frames,
            **where,
            **settings,
        )
        model = cls(config)
        model.sen.neurons.share(sen_model.neurons)
        model.sen.load_state_dict(sen_model.state_dict(), strict=False)  # it may lack the modulation
        model.to(sen_model.gate.device)  # type: ignore[arg-type]
        if isinstance(base, str):
            model._load_unet(arguments)
        else:
            model.unet = base.requires_grad_(False).eval()
        widths = {name: model.sen.specs[name].hidden_size for name in names}
        model.attach_adapter(parts.SENEditAdapter.from_unet(model.unet, config.conditioning, widths))
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, unet=None, base_kwargs=None, **kwargs):  # type: ignore[override]
        """As of any SEN; loads the adapter and the base model's UNet too.

        Args:
            unet: a `UNet2DConditionModel` to take instead of the base model's; it is frozen.
            base_kwargs: arguments of Diffusers' `from_pretrained` of the base model, such as `torch_dtype`.

        Raises:
            ImportError: Diffusers is not installed (the extra `editing`).
            OSError, RuntimeError: as of any SEN, and of the base model.
            ValueError: as of any SEN; the UNet is not of the adapter's shape; the configuration names no base model.
        """
        parts = _editing()
        shared = {key: kwargs[key] for key in FETCH_ARGUMENTS if key in kwargs and key != "force_download"}
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        types = {} if dtype in (None, "auto") else {"torch_dtype": dtype}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if unet is None:
            model._load_unet({**shared, **types, **(base_kwargs or {})})
        else:
            model.unet = unet.requires_grad_(False).eval()
        model.attach_adapter(parts.load_adapter(model.sen.neurons.base, **types))
        model.adapter.eval()
        return loaded

    def _load_unet(self, arguments: Mapping[str, Any]) -> None:
        parts, config, rest = _editing(), self.config, dict(arguments)
        if config.base_model_id is None:
            raise ValueError("config.base_model_id is None, expected the id of a base model, or its UNet as unet=...")
        fetch = {key: rest.pop(key) for key in FETCH_ARGUMENTS if key in rest}
        where = config.base_model_id, config.base_model_revision
        self.base_source = parts.base_source(*where, self.sen.neurons.base, fetch)
        self.unet = parts.load_unet(self.base_source, **rest)

    def attach_adapter(self, adapter: Any) -> None:
        """Puts an adapter on the UNet, in the place of the one that it has; both go to this model's device.

        Args:
            adapter: a [`SENEditAdapter`] that is attached to no UNet.

        Raises:
            ValueError: it was made for another base model, or reads neurons that this model does not read.
        """
        read = {name: self.sen.specs[name].hidden_size for name in self.config.read_neurons or ()}
        if unknown := sorted(set(adapter.neuron_widths.items()) - set(read.items())):
            raise ValueError(
                f"adapter: it reads neurons (name, width) {unknown}, expected some of {list(read.items())}"
            )
        before, self.adapter = self.adapter, None
        if before is not None:
            before.detach()
        try:
            self.adapter = adapter.attach(self.unet).to(self.device)
        except ValueError:
            self.adapter = None if before is None else before.attach(self.unet)
            raise
        self.unet.to(self.device)

    # --- forward -----------------------------------------------------------------------------------------------------

    @property
    def processor(self) -> SENProcessor:
        if self._processor is None:
            self._processor = SENProcessor(self.sen.config, self.sen.neurons.base)
        return self._processor

    def video_features(self, frames: np.ndarray, prompt: str | None = None) -> dict[str, Tensor]:
        """What the adapter reads of a clip: the SEN's dense features of each frame.

        Args:
            frames: (T, H, W, 3) uint8.
            prompt: for text neurons, so that association depends on it: the caption in tuning, the edit prompt in editing. A
                SEN without text neurons does not read it.

        Returns:
            Neuron -> (1, T, h, w, width); without neurons that the frames give no inputs for. With gradients of the
            association, unless they are switched off.

        Raises:
            ValueError: frames of another shape or dtype.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(f"frames: expected (T, H, W, 3) uint8, found shape {frames.shape} of {frames.dtype}")
        names = list(self.adapter.neuron_widths)
        if not names:
            return {}
        found = read_windows(self.sen, self.processor, frames, names, self.config.num_frames, prompt)
        return {name: values.unsqueeze(0) for name, values in found.items()}

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor | float,
        text_states: Tensor,
        features: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """One step of the video UNet.

        Args:
            latents: (batch, channels, frames, h, w), in the UNet's dtype.
            timesteps: (batch,), or one for all.
            text_states: (batch, tokens, width) of the base model's text encoder.
            features: of [`video_features`], joined along the first axis for several videos; `None` leaves the SEN out. The
                batch may hold the videos several times over, as for classifier-free guidance: [without text | with text].

        Returns:
            (batch, channels, frames, h, w), noise or velocity, as the base model predicts.

        Raises:
            ValueError: shapes that do not fit.
        """
        return self.adapter(latents, timesteps, text_states, features)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor | float,
        text_states: Tensor,
        features: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """As [`predict`]."""
        return self.predict(latents, timesteps, text_states, features)

    # --- saving ------------------------------------------------------------------------------------------------------

    def _config_to_save(self, folder: Path, include_neurons: bool, **own: Any) -> Any:
        config, parts = super()._config_to_save(folder, include_neurons, **own), _editing()
        self.adapter.save_pretrained(folder / ADAPTER_FOLDER)
        base, source = config.base_model_id, self.base_source
        if base is None:
            logger.warning("the base model was given as a UNet; loading this checkpoint takes unet=...")
        elif base.startswith("./"):
            if source is None:  # the UNet was given
                source = parts.base_source(base, None, self.sen.neurons.base, {})
            parts.copy_base(source, folder)
        elif os.path.isdir(base):
            logger.warning(f"base model {base} is a local folder; elsewhere loading this checkpoint takes unet=...")
        elif source is not None:
            config.base_model_revision = source.commit
        return config


def _editing() -> Any:
    """Names of the parts that need Diffusers."""
    try:
        from modeling_sen.editing import base_unet
    except ModuleNotFoundError as error:  # of this package
        raise ImportError(f"video editing needs the package modeling-sen with its extra `editing`: {error}") from error
    return base_unet


def _leave_out(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict) -> None:
    """Hook of `state_dict`: without UNet and adapter."""
    for key in [key for key in state_dict if key.removeprefix(prefix).startswith(_APART)]:
        del state_dict[key]


def _expect_none(module: nn.Module, incompatible_keys: Any) -> None:
    """Hook of `load_state_dict`: UNet and adapter are not among the weights that are missing."""
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if not any(f".{part}" in f".{key}" for part in _APART)]


__all__ = ["ADAPTER_FOLDER", "SENEditingConfig", "SENForVideoEditing"]
