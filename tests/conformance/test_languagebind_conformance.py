"""What Transformers asks of its own models, asked of LanguageBind's: towers over time and over spectrograms, and a whole."""

import unittest

import torch
from not_applicable import LANGUAGEBIND_TESTS, leave_out
from tower_table import CHECKPOINTS, TEXT
from transformers.testing_utils import torch_device
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from modeling_sen.families.languagebind.configuration_languagebind import (
    LanguageBindAudioTowerConfig,
    LanguageBindVideoConfig,
    LanguageBindVideoTowerConfig,
)
from modeling_sen.families.languagebind.modeling_languagebind import (
    LanguageBindAudioTower,
    LanguageBindVideo,
    LanguageBindVideoTower,
)

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 37}
VISION = {**LAYERS, "image_size": 16, "patch_size": 8}
FRAMES, BATCH = 4, 7


class TowerTester:
    """A tower and random pixels.

    Args:
        config: of the tower.
        shape: of one input.
    """

    is_training = False  # a tower has no loss
    batch_size, hidden_size, num_hidden_layers, num_attention_heads = BATCH, 32, 2, 4

    def __init__(self, config, shape: tuple[int, ...]):
        height, width = config.input_size
        self.config, self.shape, self.seq_length = config, shape, (height // 8) * (width // 8) + 1

    def prepare_config_and_inputs_for_common(self):
        return self.config, {"pixel_values": floats_tensor([BATCH, *self.shape])}


class TowerTest(ModelTesterMixin):
    test_resize_embeddings = False
    config_class: type

    def setUp(self):
        self.config_tester = ConfigTester(
            self, config_class=self.config_class, has_text_modality=False, hidden_size=32, num_attention_heads=4
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """The patches' embedding."""
        model = self.all_model_classes[0](self.model_tester.config)
        assert model.get_input_embeddings() is model.embeddings.patch_embedding


class LanguageBindVideoTowerTest(TowerTest, unittest.TestCase):
    all_model_classes = (LanguageBindVideoTower,)
    config_class = LanguageBindVideoTowerConfig

    def setUp(self):
        super().setUp()
        config = LanguageBindVideoTowerConfig(**VISION, num_frames=FRAMES)
        self.model_tester = TowerTester(config, (3, FRAMES, 16, 16))


class LanguageBindAudioTowerTest(TowerTest, unittest.TestCase):
    all_model_classes = (LanguageBindAudioTower,)
    config_class = LanguageBindAudioTowerConfig

    def setUp(self):
        super().setUp()
        config = LanguageBindAudioTowerConfig(**LAYERS, patch_size=8, num_mel_bins=16, target_length=40)
        self.model_tester = TowerTester(config, (3, 16, 40))


class WholeTester:
    is_training = True
    batch_size = BATCH

    def __init__(self):
        self.text_model_tester = TextTester()
        self.vision_model_tester = TowerTester(
            LanguageBindVideoTowerConfig(**VISION, num_frames=FRAMES), (3, FRAMES, 16, 16)
        )

    def prepare_config_and_inputs_for_common(self):
        settings = dict(CHECKPOINTS["languagebind_video"][1])
        settings |= {"vision_config": {**VISION, "num_frames": FRAMES}, "text_config": {**TEXT, **LAYERS}}
        return LanguageBindVideoConfig(**settings), {
            "pixel_values": floats_tensor([BATCH, 3, FRAMES, 16, 16]),
            "input_ids": ids_tensor([BATCH, 6], 500),
            "attention_mask": torch.ones(BATCH, 6, dtype=torch.long, device=torch_device),
        }


class TextTester:
    num_hidden_layers = 2

    def prepare_config_and_inputs_for_common(self):
        return None, {"input_ids": ids_tensor([3, 6], 500), "attention_mask": torch.ones(3, 6, dtype=torch.long)}


class LanguageBindVideoTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (LanguageBindVideo,)
    additional_model_inputs = ("pixel_values",)
    test_resize_embeddings = False
    _is_composite = True

    def setUp(self):
        self.model_tester = WholeTester()
        self.config_tester = ConfigTester(
            self, config_class=LanguageBindVideoConfig, has_text_modality=False, common_properties=["projection_dim"]
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return inputs | ({"return_loss": True} if return_labels else {})

    def test_config(self):
        self.config_tester.run_common_tests()


leave_out(LanguageBindVideoTest, LANGUAGEBIND_TESTS)
