"""Trained encoders for slow tests, in the folder that `SEN_REAL_MODELS` names.

`vit` is a Dinov2Model (ViT-S/14) fine-tuned for saliency, whose middle layers describe frames better than its last; `cnn` is
an EfficientNetForImageClassification of ImageNet with class names; `speech` is a WhisperForConditionalGeneration
(tiny.en); `text` is the BertModel of all-MiniLM-L6-v2; `llm` is a causal language model with a chat template. Each folder
is a Transformers checkpoint with its processor or tokenizer.
"""

import json
import os
from pathlib import Path

import pytest

MODELS = Path(os.environ.get("SEN_REAL_MODELS", ""))


def needs_models(*names: str) -> pytest.MarkDecorator:
    """Skips a test if one of the checkpoints is absent."""
    missing = [name for name in names if "SEN_REAL_MODELS" not in os.environ or not (MODELS / name).is_dir()]
    return pytest.mark.skipif(bool(missing), reason=f"SEN_REAL_MODELS names no folder with {', '.join(missing)}")


def sentence_model(folder: Path) -> str:
    """`text` as a complete sentence-transformers checkpoint: its files, and the settings of its pooling."""
    (folder / "1_Pooling").mkdir(parents=True)
    for file in (MODELS / "text").iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file.resolve())
    pooling = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return str(folder)
