"""Tests of the suite that cannot apply to a model over frozen towers, and why: `{test: reason}`."""

import unittest

# What a SEN returns for `output_hidden_states` and `output_attentions` is tested in tests/test_modeling_sen.py.
BY_NEURON = "A SEN has no layers of its own: hidden states and attentions are a dict with those of each tower"

MODEL_TESTS = {
    "test_attention_outputs": BY_NEURON,
    "test_hidden_states_output": BY_NEURON,
    "test_retain_grad_hidden_states_attentions": "Hidden states and attentions are those of frozen towers",
    "test_load_save_without_tied_weights": "Nothing is tied, and SENConfig refuses fields that it does not have",
    "test_model_get_set_embeddings": "A SEN has no input embeddings: each tower has its own",
    "test_model_weights_reload_no_missing_tied_weights": "A checkpoint without weights is refused, not filled up at random",
}

# A clip's parts are read by each neuron's own preprocessing, by hub id: there are no sub-processors to pass kwargs on to.
NO_KWARGS = "SENProcessor takes no kwargs for sub-processors: its few arguments are explicit, and others raise"

PROCESSOR_TESTS = {
    "test_call_arguments_default_none": NO_KWARGS,
    "test_call_arguments_not_in_processor_kwargs": NO_KWARGS,
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": NO_KWARGS,
    "test_processor_from_pretrained_vs_from_components": "SENProcessor is made of the model's configuration alone",
}


IMAGEBIND_PATCH_TESTS = {
    "test_model_get_set_embeddings": "Tokens are made of patches by a convolution or a linear map: no nn.Embedding",
}
EMBEDDINGS_ONLY = "ImageBindModel returns embeddings; hidden states and attentions are returned by its towers"
IMAGEBIND_TESTS = {
    "test_hidden_states_output": EMBEDDINGS_ONLY,
    "test_retain_grad_hidden_states_attentions": EMBEDDINGS_ONLY,
}

# As CLIPModel, it returns the outputs of its towers, each with its own.
IN_PARTS = "LanguageBindVideo returns hidden states and attentions inside its towers' outputs"
OF_FRAMES = "Tokens of a clip are (batch * frames, tokens, width), as in the original"
LANGUAGEBIND_TESTS = {
    "test_attention_outputs": IN_PARTS,
    "test_hidden_states_output": IN_PARTS,
    "test_retain_grad_hidden_states_attentions": IN_PARTS,
    "test_get_image_features_output_0": OF_FRAMES,
    "test_get_image_features_output_2": OF_FRAMES,
}


def leave_out(test_class: type[unittest.TestCase], reasons: dict[str, str]) -> None:
    """Skips the named tests.

    Raises:
        AttributeError: the suite has no such test.
    """
    for name, reason in reasons.items():
        setattr(test_class, name, unittest.skip(reason)(getattr(test_class, name)))
