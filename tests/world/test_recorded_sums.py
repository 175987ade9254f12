"""The world is the same bytes on every machine: sums recorded once, checked here and in a fresh process."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from modeling_sen.world import attribute_caption, edit, legend, make_scene, render, sound_of, tracks

RECORDED = json.loads("""
[
 {
  "split": "train",
  "seed": 0,
  "index": 0,
  "options": {},
  "sums": {
   "frames": "fb3251cec791994a51f93f8cf9b7e81c7b02859f8fb3787475bb85c0a77de0a4",
   "masks": "f3c7049baf5b69f86721d2505b82f4d88bce91e280ff4afd32b788bcebf88476",
   "depth": "85d34f447d2a6ccb3aa2c3d3df231a9ef57054f2ae2ef47ebeaeaff63b935ea2",
   "points": "17be3088221e514acfaf06749be6304400a9d8965b913105548044906da325e6",
   "visibility": "cd87da83091b1ca6f77c42887e3e300a03204d4ccebe83d39da1225814a4d959",
   "sound": "65fa3be1097bbdba87eb7929cc80b09dbe51e51239db9aac3d8192bb601180ef",
   "edited": "b0889d6593d7f5fa9a0b17b677740bb53ace468d2527bd53f3f2b37aea25638d",
   "words": "c34d2aad498c8350320a360a917bb521950821b5a50a6ce8bc681fcc1e2b1270"
  }
 },
 {
  "split": "validation",
  "seed": 1,
  "index": 2,
  "options": {
   "num_objects": 3
  },
  "sums": {
   "frames": "bd7266d636a99c07c89502539925f6b9ff6349577e5b7df043c38c6b4f6d1742",
   "masks": "1b56cb37d89f61ac053dd442f002d772443fa33ba6dff0a41e1af725b3339132",
   "depth": "f68fba3ceecb46040557e4ce8e41b73fe25f8903052ea067ddc4ce28d61e1d55",
   "points": "09eb6683679627b4ee926aabe712773399c47c73f7f03d80fee1a8bc7c10e4a9",
   "visibility": "b2fff52b70029e8bb9848559758983c62908fa7a32e761f1316fae60022eff8e",
   "sound": "24c63495851ac0fa49be018e2b4bd2657c6fbb6d929cd567817a28d323a8e400",
   "edited": "0026124cb7903051429a194bf301530d5d8ac8ec834aa33ca70c44c083c84038",
   "words": "f8cba287a1193ce4638214bde30d07044a937c29f02da5294d764e00d6fd509c"
  }
 },
 {
  "split": "test",
  "seed": 3,
  "index": 17,
  "options": {
   "hops": 2
  },
  "sums": {
   "frames": "ee1df4426ee4a307af09895253584e845c8636135c2c071546def2b6661bbc7c",
   "masks": "0746d8571f144cc166e975f92c294f82085f844307671ee9dd40edee5488636f",
   "depth": "af6d6f91c0c6736d964cd978d6ade7c6254b1036581dbf2f12a98e38ca5dc619",
   "points": "f1b76ca510feedb7f49c120ef330684945fbcc3abd81f8100eb9f7af7657f73b",
   "visibility": "44b2f1d0beeebb6eeda49019ed59ea4e5bbe879d47d8b43f01bc8eda0854c721",
   "sound": "615ec16014bfc28e856fa5a39fd2c198db951a8716954c0804abe9a13fb0b7cf",
   "edited": "5e6eb09ca671ed1a9247ffbffa24b2422ae8378263aea6d53e76e98e8de3c6ce",
   "words": "5d909678f531da96ab47c0679a6c618929fd47c93523c7233c68d246cdacf6ad"
  }
 },
 {
  "split": "unseen_pairs",
  "seed": 0,
  "index": 5,
  "options": {
   "num_objects": 8
  },
  "sums": {
   "frames": "4c5c33cfb7ed52334b51d549dc69f6650ca1ced627053fa3df68a06969c39960",
   "masks": "8b0f6106ae2e78dcdadca2168d3d66e21d8ec9cade1995ec5cad9f5a9aec61d0",
   "depth": "abaeffd909269317757f5346c2d0e921747e077d141fe16d35039099b3a07831",
   "points": "014ddfaade2cfc60bb0bbeebc66f0153429af09b5907af21099f367ddfb470ca",
   "visibility": "b6fd6b3ac12cc5d0f66873a7f79554ff97eba848e1716c6c63f45ca1b5b2a732",
   "sound": "5fa0a0dfaced83d5d42d856ea6fe65b40bf5928437dfca23b6eb4ec8e9c70d96",
   "edited": "97836a546102dadfed578bbdd09cd576adaca435016a07e9e7204b736384d8ed",
   "words": "5459d8af459cbd34f3d19f57be01955279f89258e5654890d56e8f02583da4a7"
  }
 },
 {
  "split": "train",
  "seed": 9223372036854775808,
  "index": 1099511627776,
  "options": {
   "num_objects": [
    2,
    6
   ],
   "size": 96,
   "num_frames": 24
  },
  "sums": {
   "frames": "2839ce267023fe70b4e75cc138d305c078e004a924e8beb6fd0ee9e3eaf5dd73",
   "masks": "2cf6ae3bbecc1af4b092905bd897fe8be29e001310f4e54e4112cc69fc04549d",
   "depth": "3fe7aed0769e7918950ac1699e8583189987d5cbf3edef6277cce501e0c61f27",
   "points": "7f95461a73c4f8eaea0c003c13bc9494649d7320a0c285671b682cbb5b9732bb",
   "visibility": "09b042c15aebe017411bc7991b903c83e83d4f3843025dee9c911a25283b8f8f",
   "sound": "35aa3bdff487c2c0825b4ebf886ac98e5c97a037b8fff670dceabea4568ea031",
   "edited": "235d31044c271f4a339853316842af6dcccf79db64f8f148ad9e750b2e29527b",
   "words": "cb696f7d16873a764f5d00de2fd5164b5e0f3403627576e06511ce8dd7b4c005"
  }
 },
 {
  "split": "train",
  "seed": 0,
  "index": 11,
  "options": {
   "num_objects": 1,
   "size": 32,
   "num_frames": 1
  },
  "sums": {
   "frames": "1fd08a6b00406cacfcc52552fb9b5d486fb65c0ddbe778181546b02bb861ac7f",
   "masks": "b4e80f87d5f906d01e6b90ad9efcbfb52950b3b9c659d12ef9b73b833331c88b",
   "depth": "f5b8c09cdfaae1de373b8078ec3ac5203504aebbde46ed57f37c3b2ca9dab1ac",
   "points": "11988bc10cf187a7a02592a3bafca0d4e6bf3a23ab9166f966414ec271c2b244",
   "visibility": "72cd6e8422c407fb6d098690f1130b7ded7ec2f7f5e1d30bd9d521f015363793",
   "sound": "620ed625452b781f0851cd1967c02d2d313b2689f19211fbd47c47e9d4a44c3f",
   "edited": "12802658839d6d3dcce3f0246943b290025ad545eecb3653693d0a8e5d999f7c",
   "words": "7842e548d77a5abee176d216b326105c18bd6a745cdf94b78a8b3f713e31a082"
  }
 }
]
""")


def sums(split: str, seed: int, index: int, **options) -> dict[str, str]:
    scene = make_scene(split, seed, index, **options)
    clip = render(scene)
    points, visibility = tracks(scene)
    arrays = {
        "frames": clip.frames,
        "masks": clip.masks,
        "depth": clip.depth,
        "points": points.astype("<f4"),
        "visibility": visibility,
        "sound": sound_of(scene).astype("<i2"),
        "edited": render(edit(scene).scene).frames,
    }
    found = {name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for name, array in arrays.items()}
    words = [attribute_caption(scene), legend(scene), edit(scene).edit_prompt]
    return {**found, "words": hashlib.sha256("\n".join(words).encode()).hexdigest()}


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['split']}-{case['index']}")
def test_clips_have_the_recorded_sums(case):
    assert sums(case["split"], case["seed"], case["index"], **case["options"]) == case["sums"]


def test_another_process_with_another_hash_seed_draws_the_same_clips():
    case = RECORDED[0]
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from test_recorded_sums import sums; "
        f"print(json.dumps(sums({case['split']!r}, {case['seed']}, {case['index']}, **{case['options']!r})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, os.path.dirname(__file__)],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == case["sums"]
