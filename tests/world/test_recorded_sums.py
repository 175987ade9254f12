"""The world is the same bytes on every machine: sums recorded once, checked here and by test_fresh_process."""

import hashlib
import json

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
   "frames": "10b2714089c97a6784d37b70320ac90c892d21fc9f7f26babe115d7e5166688c",
   "masks": "f3c7049baf5b69f86721d2505b82f4d88bce91e280ff4afd32b788bcebf88476",
   "depth": "85d34f447d2a6ccb3aa2c3d3df231a9ef57054f2ae2ef47ebeaeaff63b935ea2",
   "points": "c9dc87fb0a953049201cb0beb310b90456701407167e54a66d2411cc0587aa1d",
   "visibility": "6caf38d537984e261527b8caef5f990fb91415a1db917198821a79ed28997973",
   "sound": "b611d6775528d2d872b07d58b3bf0a759f4ce403224083f574f8eeae5ee51786",
   "edited": "e1772ae4e975b34564ebdb72b2f0cda4a4931f6fddd399e2fd2dfdd906c6d40e",
   "words": "f8f0a0e6e6dd7ff9809b911b15eb9202d31913b95a25ccb1078eb385a5b3ad2a"
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
   "frames": "c4e0a83f40348a00057cde3fbb72e11e1b7fa2f066d4296a45eaa7cb32e37c92",
   "masks": "1b56cb37d89f61ac053dd442f002d772443fa33ba6dff0a41e1af725b3339132",
   "depth": "f68fba3ceecb46040557e4ce8e41b73fe25f8903052ea067ddc4ce28d61e1d55",
   "points": "bbbc472253151598839e4a4738c24bba415e587b9b68274464b9b7de9af90000",
   "visibility": "3d199b0eab9697972aa58565fbfdd556f22106a20a685919aa6458813010fffa",
   "sound": "5c686f2e125f06c5b574a0327549fdb511f40c401f5286a0a20b641ebf8f09b6",
   "edited": "5b30d7ff4c68f0edcd61c75765e390c6b80c0732285ab0487c21229bd9ac5dea",
   "words": "3a67692ac33dc933cf7348e17a72e6f10db0926fe60c161f15ccb29008937a4a"
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
   "frames": "42a133a591a5eee757a4f66a352f7272f6c7a623b4d21eb91d99bbc36eccf15a",
   "masks": "0746d8571f144cc166e975f92c294f82085f844307671ee9dd40edee5488636f",
   "depth": "af6d6f91c0c6736d964cd978d6ade7c6254b1036581dbf2f12a98e38ca5dc619",
   "points": "774ab7e8ca365fb2838a5f1e8f49e85a08049897e08dca708d3fb0bbd273bbbd",
   "visibility": "cf9276e979df6226f65f89abd35aa3d044d880f766d9cdf4fa329aa57973b0ae",
   "sound": "64f39c43d26c062c3673b3c0eb9d2e70e32e4f0ce6b334a4947805c369bb8300",
   "edited": "7fcb423464b08548248e6147f0f384968a5b3e3ceda2ef0178e78f6fdfae04d8",
   "words": "32a333b7c7f049fbc2d49a5f73c1aaa524863868e6c0d1ec3e017e4e4e615091"
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
   "frames": "ce0f9e27de8e7feb03acda6490e267827fc4c5293d06ac519050d29398c4520f",
   "masks": "8b0f6106ae2e78dcdadca2168d3d66e21d8ec9cade1995ec5cad9f5a9aec61d0",
   "depth": "abaeffd909269317757f5346c2d0e921747e077d141fe16d35039099b3a07831",
   "points": "ec36a7a1e62f43cb4af32a8c56d697d636073507612bca2cdc77ba543461f4ac",
   "visibility": "b405074e99d68a7ee110bad15503335607eed7ebafaefde2e099c5857d18f89d",
   "sound": "088e1f5e5b35080ff3d92dbebad424b082eb55f99031a4ccdc7add4e83150562",
   "edited": "d1e6c701c2eac969c71eb1ef7ecc050f5b4637cd808d63e67b059677d3145ca2",
   "words": "6f14d3f10756abd65b85d0c47472de1ec6de1ace0280d0f9a049b9c868f86279"
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
   "frames": "cc52baf079a7cd4c803d5ba62a43de5a89ed7e5bcf4757e2b65db63b8fb5aba8",
   "masks": "2cf6ae3bbecc1af4b092905bd897fe8be29e001310f4e54e4112cc69fc04549d",
   "depth": "3fe7aed0769e7918950ac1699e8583189987d5cbf3edef6277cce501e0c61f27",
   "points": "b20afd0e0f2ca198fd17d41617916e953994957e9af99228187a822444444c4f",
   "visibility": "d1b6815a760294614e023d0ad60a46ecefbfcac2fd1c4b0d30e61df1863feb52",
   "sound": "393823b030379af82b75561b5db4fb7eb941063d698f2d2fa41535a7c16d198a",
   "edited": "3c3cc409963b4491f6ba249ccb11c7f7edc52d9ddcd9cf0f17e89135a59692b8",
   "words": "d4f56f857080dd29d6aaf4d28ae0fbd69a7e5cad1099091a4de9873039597a8a"
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
   "frames": "64b9f0dca96335cbd6559bfdde020839d250afec274f72c8f4c0eed3f94c7c80",
   "masks": "b4e80f87d5f906d01e6b90ad9efcbfb52950b3b9c659d12ef9b73b833331c88b",
   "depth": "f5b8c09cdfaae1de373b8078ec3ac5203504aebbde46ed57f37c3b2ca9dab1ac",
   "points": "72fc092ed23e6d036ca471dd98e8fb68142899afc6ff07be11502617e767f248",
   "visibility": "72cd6e8422c407fb6d098690f1130b7ded7ec2f7f5e1d30bd9d521f015363793",
   "sound": "cdef0090715beda0d8a43094f74e191d12b5e5d7d0e82e77c36b4e51371c6113",
   "edited": "6c49e1002c056573fe6d9acd8948e955900012624208ae7256f00a1cb6609f39",
   "words": "46c9b48a1fee7f0dd3471238861fd655fdbb7d512e860667bfd631e4692f3100"
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
