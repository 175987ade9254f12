# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Runs a SEN on tasks of the public benchmark mteb, with or without video: `mteb.evaluate(SENForMTEB("org/sen"), tasks)`."""

from typing import Any

import numpy as np

from modeling_sen.encoding import COLUMNS, SENEncoder
from modeling_sen.evaluation.protocols import PROTOCOLS, protocol_processors

try:
    import datasets
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError as error:
    raise ImportError("mteb needs the extra `mteb`: pip install 'modeling-sen[mteb]'") from error


class SENForMTEB(AbsEncoder):
    """A SEN with the interface of mteb's encoders. It samples frames by the protocol `mteb`, and uses a task's sound and
    text.

    This package decodes only the sampled frames; mteb's own decoder (torchcodec) is not needed.

    Args:
        model_name: Hub id or folder of a SEN.
        revision: commit.
        device: by default the first GPU, or the CPU.
        kwargs: arguments of [`SENEncoder.from_pretrained`].
    """

    def __init__(self, model_name: str, revision: str | None = None, *, device: str | None = None, **kwargs: Any):
        if revision is not None:
            kwargs["revision"] = revision
        encoder = SENEncoder.from_pretrained(model_name, device=device, **kwargs)
        (processor,) = protocol_processors(encoder.processor, PROTOCOLS["mteb"])
        self.encoder = SENEncoder(encoder.model, processor)
        modalities = {spec.modality for spec in encoder.model.config.neuron_specs} & {"image", "video", "audio"}
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": model_name if model_name.count("/") == 1 else "local/sen",
                "revision": encoder.processor.commit or revision or "no_revision",
                "embed_dim": encoder.model.config.projection_dim,
                "n_parameters": sum(weight.numel() for weight in encoder.model.parameters()),
                "similarity_fn_name": ScoringFunction.COSINE,
                "modalities": sorted({*modalities, "video", "text"}),
                "framework": ["PyTorch", "Transformers"],
            }
        )

    def encode(
        self, inputs: Any, *, batch_size: int = 8, show_progress_bar: bool = False, **kwargs: Any
    ) -> np.ndarray:
        """Embeds the rows of a data loader: clips of its media columns, or texts, or the mean of both.

        Args:
            inputs: mteb's data loader, of which only the data set is used.
            batch_size: rows per batch.
            show_progress_bar, kwargs: not used.

        Returns:
            (rows, projection_dim) float32 of length 1.

        Raises:
            ValueError: none of its columns can be embedded.
        """
        data = inputs.dataset
        media = [name for name in COLUMNS if name in data.features and name != "text"]
        for name in media:
            if isinstance(data.features[name], datasets.Video | datasets.Audio):
                data = data.cast_column(name, type(data.features[name])(decode=False))
        parts = []
        if media:
            rows = data.select_columns(media)
            batches = (
                rows.select(range(at, min(at + batch_size, len(rows)))) for at in range(0, len(rows), batch_size)
            )
            parts.append(np.concatenate([self.encoder.encode(list(batch), batch_size) for batch in batches]))
        if "text" in data.features:
            parts.append(self.encoder.encode_text(data["text"][:]))
        if not parts:
            raise ValueError(f"expected some of the columns {', '.join(COLUMNS)}, found {', '.join(data.features)}")
        mean = np.mean(parts, axis=0)
        return mean / np.linalg.norm(mean, axis=-1, keepdims=True)
