"""What Transformers asks of each of its own models, asked of SENModel, SENConfig and SENProcessor."""

import shutil
import tempfile
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import torch
from not_applicable import MODEL_TESTS, PROCESSOR_TESTS, leave_out
from tiny_towers import make_towers
from tower_table import LAYERS
from transformers import CLIPTextConfig
from transformers.testing_utils import torch_device
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from transformers_tests.test_processing_common import ProcessorTesterMixin

from modeling_sen import SENConfig, SENModel, SENProcessor
from modeling_sen.neuron_loading import resolve_spec


class SENModelTester:
    """Frames (aligned), motion and sound over tiny towers, with a text tower."""

    batch_size = 7  # what the comparison of attention implementations wants
    hidden_size = 24
    num_hidden_layers = 2  # rounds
    is_training = True
    prompts: dict[str, object] = {}  # noqa: RUF012 (replaced, not changed)

    def __init__(self, parent: unittest.TestCase, towers: dict[str, str]):
        self.parent, self.towers = parent, towers
        self.text_model_tester = ClassTextTester()

    def get_config(self) -> SENConfig:
        neurons = [
            resolve_spec({"hub_id": self.towers["clip"], "num_frames": 2, "aligned": True}, "tower"),
            resolve_spec(self.towers["videomae"], "tower", ("image",)),
            resolve_spec(self.towers["ast"], "tower", ("image", "video")),
        ]
        return SENConfig(
            neurons=[spec.to_dict() for spec in neurons],
            text_tower=resolve_spec(self.towers["clip"], "text_tower").to_dict(),
            hidden_size=self.hidden_size,
            num_rounds=self.num_hidden_layers,
            num_prompt_tokens=2,
            **self.prompts,
            bottleneck_size=4,
            projection_dim=12,
            logit_scale_init_value=2.0,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[SENConfig, dict[str, torch.Tensor]]:
        return self.get_config(), {
            "neuron_mask": torch.ones(self.batch_size, 3, dtype=torch.bool, device=torch_device),
            "image_pixel_values": floats_tensor([self.batch_size, 2, 3, 16, 16]),
            "video_pixel_values": floats_tensor([self.batch_size, 4, 3, 16, 16]),
            "audio_input_features": floats_tensor([self.batch_size, 64, 16]),
            "text_input_ids": ids_tensor([self.batch_size, 6], 500),
        }


class ClassTextTester:
    """What `get_text_features` takes."""

    num_hidden_layers = LAYERS["num_hidden_layers"]

    def prepare_config_and_inputs_for_common(self) -> tuple[None, dict[str, torch.Tensor]]:
        return None, {"input_ids": ids_tensor([3, 6], 500), "attention_mask": torch.ones(3, 6, dtype=torch.long)}


class SENModelWithTowers(SENModel):
    """Its towers are there from the start, not from the first use."""

    def __init__(self, config: SENConfig):
        super().__init__(config)
        self.load_neurons()


class SENModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SENModel,)
    additional_model_inputs = ("image_pixel_values", "video_pixel_values", "audio_input_features", "text_input_ids")
    test_resize_embeddings = False
    skip_test_video_features_output_shape = True  # a round has no (batch, tokens, width) of the video
    _is_composite = True

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        cls.towers = make_towers(Path(cls.folder))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def setUp(self):
        self.model_tester = SENModelTester(self, self.towers)
        # The suite would widen the epsilons of a configuration's norms: towers have theirs in configurations of their own.
        suite = "transformers_tests.test_modeling_common"
        self.enterContext(unittest.mock.patch(f"{suite}.set_config_for_less_flaky_test"))
        self.config_tester = ConfigTester(
            self,
            config_class=SENConfig,
            has_text_modality=False,
            common_properties=["hidden_size", "num_rounds"],
            hidden_size=48,
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long, device=torch_device)
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_gradient_checkpointing_enable_disable(self):
        """The layers that are checkpointed are the towers'."""
        self.all_model_classes = (SENModelWithTowers,)
        super().test_gradient_checkpointing_enable_disable()

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        """The layer that is watched is a tower's first: prompts have to join the tokens there, or nothing is recomputed."""
        self.model_tester.prompts = {"prompt": "tokens", "prompt_depth": "all"}
        super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)

    def _text_features_prepare_config_and_inputs(self):
        """The text tower's configuration, which a SENConfig leaves in the tower's own checkpoint."""
        config, inputs = super()._text_features_prepare_config_and_inputs()
        config.text_config = CLIPTextConfig.from_pretrained(self.towers["clip"])
        return config, inputs

    def _video_features_prepare_config_and_inputs(self):
        """Every neuron looks at a part of the video."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        del inputs["text_input_ids"]
        return config, inputs

    def _video_features_get_expected_num_hidden_states(self, model_tester=None):
        return 3  # one entry for each neuron

    _video_features_get_expected_num_attentions = _video_features_get_expected_num_hidden_states


class SENProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = SENProcessor

    @classmethod
    def _setup_from_components(cls):
        cls.towers_folder = tempfile.mkdtemp()
        return SENProcessor(SENModelTester(None, make_towers(Path(cls.towers_folder))).get_config())

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.towers_folder)

    def test_model_input_names(self):
        """A clip has its frames and its sound together."""
        clip = {"video": self.prepare_videos_inputs().transpose(0, 2, 3, 1), "audio": (np.zeros(16000), 16000)}
        inputs = self.get_processor()(videos=clip, text=self.prepare_text_inputs(), return_tensors="pt")
        assert set(inputs.keys()) == set(self.get_processor().model_input_names)


leave_out(SENModelTest, MODEL_TESTS)
leave_out(SENProcessorTest, PROCESSOR_TESTS)
