import torch

from bridgework.models.training.batches import stimuli_batch
from bridgework.probes.stimuli.images import to_pixels
from bridgework.probes.stimuli.sources import load_stimuli


def test_a_batch_is_a_function_of_seed_and_step():
    stimuli = load_stimuli("noto", 40)
    one, again, other = (stimuli_batch(step, 0, stimuli, 8) for step in (3, 3, 4))
    assert one["caption"] == again["caption"]
    assert torch.equal(one["noise"], again["noise"]) and torch.equal(one["image"], again["image"])
    assert not torch.equal(one["noise"], other["noise"])
    assert one["image"].shape == one["noise"].shape == (8, 3, 32, 32) and one["time"].shape == (8,)


def test_an_epoch_shows_every_image_once_and_each_has_its_caption():
    stimuli = load_stimuli("noto", 24)
    texts = {to_pixels([s.image], 32).numpy().tobytes(): s.text for s in stimuli}
    shown = []
    for step in range(3):
        batch = stimuli_batch(step, 0, stimuli, 8)
        for image, caption in zip(batch["image"], batch["caption"], strict=True):
            shown.append(image[None].numpy().tobytes())
            assert caption in ("", texts[shown[-1]])
    assert len(set(shown)) == len(texts)
