"""The sound track of a clip: a tone whose pitch encodes the colour of the sounding sprite, and faint noise."""

import numpy as np

from modeling_sen.world.scene import FRAMES_PER_SECOND, SINE, IntegerStream, Scene
from modeling_sen.world.vocabulary import PITCHES

SAMPLING_RATE = 16_000


def sound_of(scene: Scene) -> np.ndarray:
    """The sound of a whole clip: (num_frames * 2000,) int16 at 16 kHz. A silent clip only has noise.

    The loudness is steady, swelling or pulsing, drawn independently of the motions.
    """
    draws = IntegerStream((scene.sound, 2))
    count = scene.num_frames * SAMPLING_RATE // FRAMES_PER_SECOND
    hiss = draws.between(40, 200)
    sound = (draws.bytes(count).astype(np.int64) - 128) * hiss >> 7  # (samples,)
    sprite = scene.sounding_sprite
    if sprite is None:
        return sound.astype(np.int16)
    detune = draws.between(-12, 12)  # thousandths
    step = PITCHES[sprite.colour] * (1000 + detune) * 2**32 // (1000 * SAMPLING_RATE)  # 2**32 is one turn
    time = np.arange(count, dtype=np.int64)
    phase = time * step + draws.below(2**32)
    turn = (phase >> 22) % 1024
    tone = SINE[turn] * 3 + SINE[turn * 2 % 1024] >> 2  # the tone and its octave at a lower volume
    beat = time * 1024 * draws.between(1, 5) // SAMPLING_RATE + draws.below(1024)  # 1024 is one beat
    pattern = draws.below(3)
    if pattern == 0:
        loudness = np.full(count, 192)
    elif pattern == 1:
        loudness = 144 + (SINE[beat % 1024] * 96 >> 15)
    else:
        wave = SINE[beat % 1024] >> 5  # -1024..1023; the tone is on for half of the time, with soft edges
        loudness = np.clip(wave + 128, 0, 256) * 3 >> 2
    volume = draws.between(64, 200)  # of 256
    sound += tone * loudness * volume >> 17
    return sound.astype(np.int16)
