"""A head on a SEN that inherits loading, saving, pushing and its export as remote code.

It is placed beside the modules of the package, and imports from them as they do from each other.
"""

from torch import nn
from transformers import PreTrainedConfig

from .configuration_sen import SENConfig
from .modeling_sen import SENModel
from .pretrained_sen import SENPreTrainedModel, lists_neuron_inputs


class ToyConfig(PreTrainedConfig):
    model_type = "sen_toy"
    sub_configs_defaults = {"sen_config": SENConfig}  # noqa: RUF012 (as Transformers declares it)

    sen_config: dict | SENConfig | None = None
    num_classes: int = 3


class ToyHead(SENPreTrainedModel):
    config: ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.sen = SENModel(config.sen_config)
        self.classifier = nn.Linear(config.sen_config.projection_dim, config.num_classes)
        self.post_init()

    @lists_neuron_inputs
    def forward(self, labels=None, **inputs):
        logits = self.classifier(self.sen(**inputs).fused_embeds)  # (batch, num_classes)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}
