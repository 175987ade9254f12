"""What Transformers asks of each of its own models, asked of ImageBind's towers and of all of them together."""

import copy
import unittest

import torch
from not_applicable import IMAGEBIND_PATCH_TESTS, IMAGEBIND_TESTS, leave_out
from tower_table import CHECKPOINTS
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from modeling_sen.families.imagebind import ImageBindConfig, ImageBindModel
from modeling_sen.families.imagebind.configuration_imagebind import TOWER_CONFIGS
from modeling_sen.families.imagebind.imagebind_towers import TOWERS

SHAPES = {
    "vision": ("pixel_values", [3, 16, 16]),
    "audio": ("input_features", [1, 16, 20]),
    "depth": ("pixel_values", [1, 16, 16]),
    "thermal": ("pixel_values", [1, 16, 16]),
    "imu": ("imu_values", [6, 32]),
}
TOKENS = {"vision": 5, "text": 9, "audio": 13, "depth": 5, "thermal": 5, "imu": 5}


def tower_config(modality: str):
    settings = copy.deepcopy(CHECKPOINTS["imagebind"][1][f"{modality}_config"])
    return TOWER_CONFIGS[modality](**{**settings, "num_hidden_layers": TowerTester.num_hidden_layers})


def tower_inputs(modality: str, batch: int) -> dict[str, torch.Tensor]:
    if modality == "text":
        ids = ids_tensor([batch, TOKENS["text"]], 500)
        ids[:, -1] = 513
        return {"input_ids": ids}
    name, shape = SHAPES[modality]
    return {name: floats_tensor([batch, *shape])}


class TowerTester:
    batch_size = 3
    hidden_size = 16
    num_hidden_layers = 2
    num_attention_heads = 2
    is_training = False

    def __init__(self, modality: str):
        self.modality = modality
        self.seq_length = self.encoder_seq_length = TOKENS[modality]
        self.key_length = self.seq_length + (modality not in ("vision", "text"))

    def prepare_config_and_inputs_for_common(self):
        return tower_config(self.modality), tower_inputs(self.modality, self.batch_size)


class TowerTests(ModelTesterMixin):
    modality = ""
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = TowerTester(self.modality)
        self.config_tester = ConfigTester(
            self,
            config_class=TOWER_CONFIGS[self.modality],
            has_text_modality=False,
            common_properties=["hidden_size", "num_hidden_layers", "num_attention_heads"],
            hidden_size=48,
            num_attention_heads=2,
        )

    @property
    def all_model_classes(self):
        return (TOWERS[self.modality],)

    def test_config(self):
        self.config_tester.run_common_tests()


class ImageBindVisionTest(TowerTests, unittest.TestCase):
    modality = "vision"


class ImageBindTextTest(TowerTests, unittest.TestCase):
    modality = "text"


class ImageBindAudioTest(TowerTests, unittest.TestCase):
    modality = "audio"


class ImageBindImuTest(TowerTests, unittest.TestCase):
    modality = "imu"


class ImageBindModelTester:
    batch_size = 3
    is_training = False

    def prepare_config_and_inputs_for_common(self):
        inputs = {}
        for modality in TOWER_CONFIGS:
            found = tower_inputs(modality, self.batch_size)
            if modality in ("depth", "thermal"):
                found = {f"{modality}_values": found["pixel_values"]}
            inputs |= found
        return ImageBindConfig(**copy.deepcopy(CHECKPOINTS["imagebind"][1])), inputs


class ImageBindTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ImageBindModel,)
    additional_model_inputs = ("input_ids", "input_features", "depth_values", "thermal_values", "imu_values")
    test_resize_embeddings = False
    has_attentions = False
    _is_composite = True

    def setUp(self):
        self.model_tester = ImageBindModelTester()
        self.config_tester = ConfigTester(
            self, config_class=ImageBindConfig, has_text_modality=False, common_properties=["projection_dim"]
        )

    def test_config(self):
        self.config_tester.run_common_tests()


leave_out(ImageBindTest, IMAGEBIND_TESTS)
leave_out(ImageBindVisionTest, IMAGEBIND_PATCH_TESTS)
leave_out(ImageBindAudioTest, IMAGEBIND_PATCH_TESTS)
leave_out(ImageBindImuTest, IMAGEBIND_PATCH_TESTS)
