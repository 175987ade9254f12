"""Language models at full size behind sen-tiny's visual tokens: building, training, answering, saving and loading.

Random weights in bfloat16. A training step of projector, association and LoRA adapters (rank 16, all linear layers) on one
conversation about a generated clip; then an answer of eight tokens, before and after saving and loading. The checkpoint is
saved without the language model, which stands in a folder of its own, and with it ("whole"). Each language model runs in a
process of its own, whose peak memory is measured.

    pip install peft; python benchmarks/chat_language_models.py [NAME ...] [--threads 1]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from full_size_language_models import LANGUAGE_MODELS, make_chat, save_language_model
from preset_cost import peak_memory

from modeling_sen import SEN_TINY, SENChatProcessor, SENForConditionalGeneration
from modeling_sen.training.train_chat import LORA
from modeling_sen.training.train_sen import in_full_precision
from modeling_sen.world.write import write_world

transformers.utils.logging.disable_progress_bar()

HEADS = (
    "language model",
    "parameters",
    "trained",
    "built",
    "step",
    "loss before, after",
    "8 tokens",
    "checkpoint",
    "whole",
    "difference",
    "answers",
    "peak memory",
)
TOKENS = 8


def seconds(start: float) -> str:
    return f"{time.process_time() - start:.1f} s"


def size(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:,.1f} MB"


def conversation(processor: Any, clip: str) -> list[dict[str, Any]]:
    video = processor.read_video(clip)
    asked = [{"type": "video", "video": video}, {"type": "text", "text": "What happens in the video?"}]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": "A dog barks."}]


def prompt(processor: Any, messages: list[dict[str, Any]], **settings: Any) -> Any:
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, **settings)


def step(model: Any, inputs: Any) -> tuple[float, float]:
    """The loss before and after a step of AdamW."""
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.video_token_id, -100)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    model.train()
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        return loss.item(), model(**inputs, labels=labels).loss.item()


@torch.no_grad()
def answer(model: Any, inputs: Any) -> tuple[torch.Tensor, list[int]]:
    """Scores of the prompt, and the tokens of the answer."""
    tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return model(**inputs).logits.float(), tokens[0].tolist()


def measure(name: str, folder: Path) -> list[str]:
    """A row of the table."""
    from peft import LoraConfig

    start = time.process_time()
    model, processor = make_chat(folder / "llm", SEN_TINY)
    built, parameters = seconds(start), sum(weight.numel() for weight in model.language_model.parameters())
    write_world(folder / "clips", "test", 1)
    chat = conversation(processor, str(next((folder / "clips" / "videos").iterdir())))
    torch.manual_seed(0)
    model.add_language_model_adapter(LoraConfig(**LORA))
    in_full_precision(model)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    start = time.process_time()
    before, after = step(model, prompt(processor, chat))
    stepped = seconds(start)
    asked = prompt(processor, chat[:1], add_generation_prompt=True)
    start = time.process_time()
    expected, tokens = answer(model, asked)
    answered = seconds(start)
    model.save_pretrained(folder / "saved")
    model.save_pretrained(folder / "whole", include_language_model=True)
    del model
    differences, equal = [], []
    for saved in ("saved", "whole"):
        processor.save_pretrained(folder / saved)
        again = SENForConditionalGeneration.from_pretrained(folder / saved)
        inputs = prompt(SENChatProcessor.from_pretrained(folder / saved), chat[:1], add_generation_prompt=True)
        found, found_tokens = answer(again, inputs)
        differences.append((found - expected).abs().max().item())
        equal.append(found_tokens == tokens)
        del again
    return [
        name,
        f"{parameters / 1e6:,.0f} M",
        f"{trained / 1e6:,.1f} M",
        built,
        stepped,
        f"{before:.2f}, {after:.2f}",
        answered,
        size(folder / "saved"),
        size(folder / "whole"),
        f"{max(differences):.0e}",
        "equal" if all(equal) else "different",
        f"{peak_memory() / 1e9:.2f} GB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *LANGUAGE_MODELS], metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", choices=["make", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.work == "make":
        save_language_model(options.names[0], options.folder / "llm", torch.bfloat16)
        return
    if options.work == "measure":
        print(f"| {' | '.join(measure(options.names[0], options.folder))} |")
        return
    print(
        f"{date.today()}, {options.threads} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}; seconds of the processor\n\n"
        f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}",
        flush=True,
    )
    for name in options.names or LANGUAGE_MODELS:
        with tempfile.TemporaryDirectory() as folder:
            for work in ("make", "measure"):
                command = [sys.executable, __file__, name, "--work", work, "--folder", folder]
                command += ["--threads", str(options.threads)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode:
                    raise RuntimeError(f"{name}, {work}: {result.stderr[-2000:]}")
            print(result.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
