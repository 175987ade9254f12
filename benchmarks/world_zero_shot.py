"""sen-tiny on clips it has not seen: `python benchmarks/world_zero_shot.py [--num 1000] [--split unseen_pairs]`.

Writes clips of the world's test split, or of pairs of colour and shape that never occur in training, as mp4 with sound,
reads them back as any file, and scores all 512 (colour, shape, motion) descriptions. Top-1 for each neuron alone, the frozen
mean and SEN. Of three objects the sounding one is to be described; there also the choice among the 27 mixtures of the
colours, shapes and motions that occur, where colour alone is no help.
"""

import argparse
import itertools
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize
from tqdm import tqdm

import modeling_sen
from modeling_sen import SENModel, SENProcessor
from modeling_sen.world.vocabulary import all_descriptions, describe
from modeling_sen.world.write import write_world

BATCH = 32


def evaluate(
    model: SENModel, processor: SENProcessor, folder: Path, texts: torch.Tensor, descriptions: list[str]
) -> dict:
    """Top-1 of each neuron alone, the frozen mean, and SEN: of all descriptions, and of the mixtures of what occurs."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    right: dict[str, list[bool]] = {}
    among: dict[str, list[bool]] = {}
    places = {text: number for number, text in enumerate(descriptions)}
    for start in tqdm(range(0, len(rows), BATCH), unit="batch"):
        part = rows[start : start + BATCH]
        inputs = processor(videos=[str(folder / row["file_name"]) for row in part])
        with torch.no_grad():
            rounds = model(**inputs, output_all_rounds=True).all_rounds
        embeds = dict(rounds[0].neuron_embeds)
        embeds["frozen mean"] = normalize(torch.stack(list(embeds.values())).sum(0), dim=-1)
        embeds |= {f"SEN round {number}": round.fused_embeds for number, round in enumerate(rounds)}
        for name, embed in embeds.items():
            scores = embed @ texts.T  # (clips, descriptions)
            for row, score in zip(part, scores, strict=True):
                present = [places[describe(thing)] for thing in row["objects"]]
                sounding = [thing["sounding"] for thing in row["objects"]]
                target = present[sounding.index(True)] if any(sounding) else present[0]
                right.setdefault(name, []).append(int(score.argmax()) == target)
                parts = [{thing[part] for thing in row["objects"]} for part in ("colour", "shape", "motion")]
                mixed = [
                    places[describe({"colour": colour, "shape": shape, "motion": motion})]
                    for colour, shape, motion in itertools.product(*parts)
                ]
                among.setdefault(name, []).append(mixed[int(score[mixed].argmax())] == target)
    result = {name: {"top-1": float(np.mean(values))} for name, values in right.items()}
    if max(len(row["objects"]) for row in rows) > 1:
        for name, values in among.items():
            result[name]["of the mixtures"] = float(np.mean(values))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=1000, help="clips of each kind and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13], help="seeds of the test clips")
    parser.add_argument("--split", choices=["test", "unseen_pairs"], default="test", help="of the world")
    parser.add_argument("--card", type=Path, help="folder of a card's words: writes measured_SPLIT.md to it")
    parser.add_argument("--model", default=str(Path(modeling_sen.__file__).with_name("sen_tiny")))
    options = parser.parse_args()

    model = SENModel.from_pretrained(options.model)
    processor = SENProcessor.from_pretrained(options.model)
    descriptions = all_descriptions()
    tokens = processor.tokenize([f"a video of {text}" for text in descriptions])
    texts = model.get_text_features(tokens["text_input_ids"], tokens["text_attention_mask"]).pooler_output
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows: dict[str, list[str]] = {}
    for title, objects in (("one object", "1"), ("three objects, one sounds", "3")):
        results = []
        started = time.perf_counter()
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "world"
                hops = 2 if objects == "3" else None
                write_world(
                    folder, split=options.split, num=options.num, seed=seed, num_objects=int(objects), hops=hops
                )
                results.append(evaluate(model, processor, folder, texts, descriptions))
        print(
            f"\n{title}: {options.num} {options.split} clips for each of the seeds {options.seeds} "
            f"({time.perf_counter() - started:.0f} s); mean and standard deviation over the seeds, per cent"
        )
        for neuron in results[0]:
            cells = []
            for measure in results[0][neuron]:
                values = 100 * np.array([result[neuron][measure] for result in results])
                cells.append(f"{measure} {values.mean():5.1f} ± {values.std():.1f}")
                rows.setdefault(neuron, []).append(f"{values.mean():.1f} ± {values.std():.1f}")
            print(f"  {neuron:14s} " + "   ".join(cells))
    if options.card is not None:
        text = (
            ""
            if options.split == "test"
            else f"Pairs of colour and shape that never occur in training, {options.num} clips a set:\n\n"
        )
        (options.card / f"measured_{options.split}.md").write_text(text + card_table(rows))


def card_table(rows: dict[str, list[str]]) -> str:
    """The results as Markdown, without round 0, which is the frozen mean."""
    lines = ["| | one object, of 512 | one of three, of 512 | of the 27 mixtures |", "|---|---|---|---|"]
    for name, cells in rows.items():
        number = name.removeprefix("SEN round ")
        if number == "0":
            continue
        shown = f"SEN, round {number}" if number != name else name if name == "frozen mean" else f"`{name}` alone"
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
