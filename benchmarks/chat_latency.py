"""Seconds to the first token of an answer at full size: the first question about a clip, and the second one.

The preset "small" (CLIP B/32 on 8 frames, VideoMAE-small on 16, Whisper-tiny) and Qwen3-0.6B, real configurations with random
weights, float32. A clip of 16 frames of 256 x 256 and ten seconds of sound, in memory; one window unless said otherwise. With
a question neuron, CLIP's text tower reads the question, association runs again for each over trunks that are kept, and the
visual tokens of the clip follow each question. The second question is also asked with clip and conversation read anew; scores
of eight tokens of its answer are compared. Ratios are taken within a turn.

    python benchmarks/chat_latency.py [--threads 1] [--repeats 3] [--num-frames 8]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from full_size_checkpoints import save_checkpoint
from full_size_language_models import make_chat, save_language_model
from preset_cost import hub_ids, local_config
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_sen import ChatSession, SENModel

transformers.utils.logging.disable_progress_bar()

PRESET, LANGUAGE_MODEL = "small", "Qwen3-0.6B"
FIRST, SECOND = "What happens in the video?", "And then?"
SPEED_AIM, DIFFERENCE_AIM = 10.0, 1e-4
TOKENS = 8


def make_sen(folder: Path, question_neuron: bool) -> SENModel:
    config = local_config(PRESET, folder)
    if question_neuron:
        config.neurons = [*config.neurons, {**config.text_tower, "name": "question"}]
    torch.manual_seed(0)
    model = SENModel(config).load_neurons().eval()
    model.gate.data.fill_(0.8)  # open, as after training
    return model


def make_clip() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (16, 256, 256, 3), dtype=np.uint8)
    return {"video": frames, "audio": (generator.normal(scale=0.1, size=160_000).astype(np.float32), 16_000)}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and seconds of the processor."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def turn(model: Any, processor: Any, clip: Any, num_frames: int) -> dict[str, float]:
    """Seconds to the first token."""
    session = ChatSession(model, processor, max_new_tokens=1)
    reply, first = timed(lambda: session.ask(FIRST, video=clip, num_frames=num_frames)["answer"])
    _, second = timed(lambda: session.ask(SECOND))
    _, anew = timed(lambda: read_anew(model, processor, clip, num_frames, reply, 1))
    return {"first question": first, "second question": second, "second question, all read anew": anew}


def read_anew(model: Any, processor: Any, clip: Any, num_frames: int, reply: str, max_new_tokens: int) -> str:
    """The answer to the second question, with nothing that was computed for the first."""
    video = processor.read_video(clip, num_frames=num_frames)
    first = {"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": FIRST}]}
    messages = [first, {"role": "assistant", "content": reply}, {"role": "user", "content": SECOND}]
    ids = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    with torch.inference_mode():
        features = [
            model.get_video_features(**processor.sen_processor.collate(processor.ask(video, question).inputs))
            for video, question in processor.videos_in_prompt(messages)
        ]
        tokens = torch.cat([each.pooler_output for each in features])
        outputs = {"video": BaseModelOutputWithPooling(pooler_output=tokens)}
        mask = torch.ones_like(ids)
        found = model.generate(
            ids, attention_mask=mask, mm_encoder_outputs=outputs, max_new_tokens=max_new_tokens, do_sample=False
        )
    return processor.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)


def recorded(model: Any, answer: Callable[[], Any]) -> tuple[Any, Tensor]:
    """What it returns, and the scores (tokens, vocabulary) from which each token was chosen."""
    scores: list[Tensor] = []
    hook = model.language_model.register_forward_hook(lambda _, args, output: scores.append(output.logits[0, -1]))
    found = answer()
    hook.remove()
    return found, torch.stack(scores)


def compare(model: Any, processor: Any, clip: Any, num_frames: int) -> str:
    """The second answer of a session against the same with all read anew."""
    session = ChatSession(model, processor, max_new_tokens=TOKENS)
    reply = session.ask(FIRST, video=clip, num_frames=num_frames)["answer"]
    result, scores = recorded(model, lambda: session.ask(SECOND))
    whole, expected = recorded(model, lambda: read_anew(model, processor, clip, num_frames, reply, TOKENS))
    largest, spread = (scores - expected).abs().max().item(), expected.std().item()
    return (
        f"{result['visual_tokens']} visual tokens; second answer against all read anew: largest difference of scores "
        f"{largest:.1e} (aim {DIFFERENCE_AIM:.0e}, their deviation {spread:.2f}), answers equal: "
        f"{result['answer'] == whole}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num-frames", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{date.today()}, {options.threads} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{PRESET}, {LANGUAGE_MODEL}, median of {options.repeats} turns",
        flush=True,
    )
    clip = make_clip()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for hub_id in hub_ids(PRESET):
            save_checkpoint(hub_id, folder)
        llm = save_language_model(LANGUAGE_MODEL, folder / "llm", torch.float32)
        for neuron in (None, "question"):
            model, processor = make_chat(llm, make_sen(folder, neuron is not None), question_neuron=neuron)
            print("without a question neuron" if neuron is None else "with a question neuron", flush=True)
            print(f"  {compare(model, processor, clip, options.num_frames)}", flush=True)  # it warms up, too
            turns = [turn(model, processor, clip, options.num_frames) for _ in range(options.repeats)]
            for way in turns[0]:
                seconds = statistics.median(each[way] for each in turns)
                ratio = statistics.median(each["first question"] / each[way] for each in turns)
                aim = f" (aim {SPEED_AIM:.0f})" if way == "second question" else ""
                print(f"  {way:32} {seconds:7.3f} s of the processor, first question over it {ratio:5.1f}{aim}")
            del model


if __name__ == "__main__":
    main()
