"""The generalised causal mask: text causal, an image's tokens see each other, noise is seen by nobody else."""

import torch

from bridgework.models.towers.attention_masks import SequencePlaces, concatenate_masks, one_image, text_after, visible

CPU = torch.device("cpu")


def test_text_is_causal_and_padding_is_not_seen():
    text = text_after(torch.tensor([[True, True, True], [True, True, False]]), 5)
    seen = visible(text, text)
    assert seen[0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert seen[1].tolist() == [[True, False, False], [True, True, False], [True, True, False]]


def test_noise_is_seen_by_its_own_image_alone():
    text, noise = text_after(torch.ones(1, 2, dtype=torch.bool), 0), one_image(1, 2, True, CPU)
    later = text_after(torch.ones(1, 2, dtype=torch.bool), 3)
    assert visible(noise, text).all() and visible(noise, noise).all()
    assert not visible(text, noise).any() and not visible(later, noise).any()


def test_a_clean_image_is_seen_by_what_comes_after_it():
    before, image = text_after(torch.ones(1, 2, dtype=torch.bool), 0), one_image(1, 2, False, CPU)
    after = text_after(torch.ones(1, 2, dtype=torch.bool), 3)
    assert visible(after, image).all() and visible(image, image).all() and visible(image, before).all()
    assert not visible(before, image).any() and not visible(image, after).any()


def test_an_image_sees_earlier_images_but_no_later_ones():
    first = SequencePlaces(
        torch.tensor([[0, 0]]), torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    )
    second = one_image(1, 1, True, CPU)
    assert visible(second, first).all() and not visible(first, second).any()


def test_masks_stand_beside_each_other_in_one_kind():
    like = torch.zeros(2, 3, 4, 8)  # (batch, head, query, dim)
    causal = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    other = torch.tensor([[[True, False]], [[True, True]]])  # (batch, 1, other key)
    both = concatenate_masks(causal, other, (4, 2), like)
    assert both is not None
    assert both.shape == (2, 1, 4, 6) and both.dtype == torch.bool
    assert torch.equal(both[..., :4], causal.expand(2, 1, 4, 4))
    assert both[0, 0, :, 4:].tolist() == [[True, False]] * 4
    additive = concatenate_masks(torch.zeros(1, 3, 4, 4), other, (4, 2), like)
    assert additive is not None
    assert additive.shape == (2, 3, 4, 6) and additive.dtype == torch.float32
    assert (additive[0, :, :, 5] < -1e30).all() and (additive[1] == 0).all()
    assert concatenate_masks(None, None, (4, 2), like) is None
    alike = concatenate_masks(None, torch.ones(2, 1, 1, dtype=torch.bool), (4, 2), like)
    assert alike is not None and alike.shape == (2, 1, 1, 6)
