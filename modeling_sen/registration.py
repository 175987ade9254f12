"""Make SEN known to the Auto classes and to `pipeline`; runs once, when `modeling_sen` is imported."""

from transformers import AutoConfig, AutoModel

from modeling_sen.configuration_sen import SENConfig
from modeling_sen.modeling_sen import SENModel


def register() -> None:
    """Registers configuration, model, processor and pipeline tasks with Transformers."""
    AutoConfig.register(SENConfig.model_type, SENConfig, exist_ok=True)
    AutoModel.register(SENConfig, SENModel, exist_ok=True)
