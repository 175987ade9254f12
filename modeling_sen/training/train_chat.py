# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Trains video chat on conversations: `align` trains projector and association, `instruct` also the language model.

The folder of a run has the layout of `train_sen`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback

from modeling_sen.language_model import is_adapted
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.presets import SEN_TINY_CHAT, resolve_checkpoint
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.tower_weights import loaded_name
from modeling_sen.training.chat_task import ConversationDataset, answer_accuracy, end_tokens_of, right_answers
from modeling_sen.training.conversations import open_conversations
from modeling_sen.training.train_sen import (
    check_and_write,
    in_full_precision,
    load_sen,
    run_and_save,
    validate_and_keep_the_best,
)
from modeling_sen.training.train_settings import LANGUAGE_MODEL_RATES, TrainSettings
from modeling_sen.training.trainer import SENTrainer, SENTrainingArguments

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


class ChatTrainer(SENTrainer):
    """Trains on conversations. The loss is the mean over the answer tokens of a step; the language model has its own
    learning rate.

    Args:
        datasets: training conversations and, optionally, validation conversations.
        language_model_rate: peak learning rate of the language model; `None` if it is not trained.
        args, kwargs: as for [`SENTrainer`].
    """

    def __init__(
        self, *args: Any, datasets: Sequence[ConversationDataset], language_model_rate: float | None, **kwargs: Any
    ):
        self.datasets, self.language_model_rate = datasets, language_model_rate
        super().__init__(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        row = int(inputs["rows"][0])
        dataset = max((each for each in self.datasets if each.first_row <= row), key=lambda each: each.first_row)
        loss, outputs = super().compute_loss(model, dataset.model_inputs(inputs), True, num_items_in_batch)
        if not loss.requires_grad:  # no conversation of the batch has a clip, and the language model is frozen
            loss = loss + 0 * sum(weight.sum() for weight in self.model.parameters() if weight.requires_grad)
        if not return_outputs:
            return loss
        return loss, {"loss": loss, "answers": right_answers(outputs["logits"], inputs["labels"])}

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self.language_model_rate is not None:
            of_language_model = set(self.model.language_model.parameters())
            for group in list(optimizer.param_groups):
                moved = [parameter for parameter in group["params"] if parameter in of_language_model]
                group["params"] = [parameter for parameter in group["params"] if parameter not in of_language_model]
                optimizer.add_param_group({**group, "params": moved, "lr": self.language_model_rate})
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.model.restore_language_model(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.model.restore_language_model(str(self.state.best_model_checkpoint))


def train_chat(settings: TrainSettings, training: SENTrainingArguments) -> Path:
    """Trains video chat, or resumes an interrupted run, in one process or in each process started by torchrun.

    Args:
        settings: data and model.
        training: arguments of the Trainer.

    Returns:
        The folder of the best checkpoint, or without validation of the last.

    Raises:
        ValueError, OSError: wrong settings or data, an unreadable clip, or an output folder of a run with other settings.
        ImportError: adapters without the extra `chat`.
        KeyboardInterrupt: after Ctrl-C, when a checkpoint is written.
    """
    output = Path(training.output_dir or "")
    columns = (settings.video_column, settings.target_column)
    conversations = [open_conversations(settings.train, settings.train_split, *columns)]
    if settings.validation is not None:
        conversations.append(open_conversations(settings.validation, settings.validation_split, *columns))
    output.mkdir(parents=True, exist_ok=True)
    check_and_write(settings, training, conversations, output / "train.yaml")
    chosen = output / ("last" if settings.validation is None else "best")
    if (output / "last").exists():  # written last, so the run is finished
        return chosen

    torch.manual_seed(training.seed)
    model, processor = load_chat(settings)
    language_model_rate = choose_trained(model, settings)
    in_full_precision(model)
    model.to(training.device)  # type: ignore[arg-type]
    end_tokens = end_tokens_of(model, processor)
    starts = (0, len(conversations[0]))
    datasets = [
        ConversationDataset(each, processor, end_tokens, settings.num_frames, start)
        for each, start in zip(conversations, starts, strict=False)
    ]
    if settings.cache is not None:
        for each in datasets:
            each.use_cache(model, settings.cache, getattr(torch, settings.cache_dtype))
        if datasets[0].cache is not None:
            datasets[0].cache.drop_trunks()
    training.label_names = ["rows"]  # passed to `answer_accuracy` with the answers
    callbacks = []
    if settings.validation is not None:
        validate_and_keep_the_best(training, "loss", greater_is_better=False)
        if settings.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    trainer = ChatTrainer(
        model,
        training,
        datasets=datasets,
        language_model_rate=language_model_rate,
        data_collator=datasets[0].collate,
        train_dataset=datasets[0],
        eval_dataset=datasets[1] if datasets[1:] else None,
        compute_metrics=answer_accuracy,
        processing_class=processor,
        callbacks=callbacks,
    )
    run_and_save(trainer, output, chosen)
    return chosen


def load_chat(settings: TrainSettings) -> tuple[SENForConditionalGeneration, SENChatProcessor]:
    """A chat model and its processor: a checkpoint, or a new model that connects a SEN to a language model.

    Raises:
        OSError, RuntimeError, ValueError: see `SENForConditionalGeneration.from_llm` and `from_pretrained`.
    """
    if settings.llm is not None and settings.sen is not None:
        model = SENForConditionalGeneration.from_llm(settings.llm, load_sen(settings.sen)[0])
        return model, SENChatProcessor.from_llm(settings.llm, model.config)
    folder = resolve_checkpoint(settings.model, SEN_TINY_CHAT)
    return SENForConditionalGeneration.from_pretrained(folder), SENChatProcessor.from_pretrained(folder)


def choose_trained(model: SENForConditionalGeneration, settings: TrainSettings) -> float | None:
    """Makes the language model or its adapters trainable, if the preset trains it; existing adapters are trained further.

    Returns:
        The learning rate of the language model; `None` if it is not trained.

    Raises:
        ImportError: adapters without the extra `chat`.
        ValueError: `full` for a language model with adapters.
    """
    if settings.preset != "instruct":
        return None
    how, adapted = settings.llm_training or "lora", is_adapted(model.language_model)
    if how == "full":
        if adapted:
            raise ValueError("llm_training is 'full', but the language model has adapters; expected 'lora'")
        model.language_model.requires_grad_(True)
    elif adapted:
        for name, parameter in model.language_model.named_parameters():
            parameter.requires_grad_(loaded_name(name, model.loaded_names) is None)
    else:
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise ImportError("adapters need the extra `chat`: pip install 'modeling-sen[chat]'") from error
        model.add_language_model_adapter(LoraConfig(**LORA))  # type: ignore[arg-type]
    return settings.llm_learning_rate or LANGUAGE_MODEL_RATES[how]


__all__ = ["ChatTrainer", "choose_trained", "load_chat", "train_chat"]
