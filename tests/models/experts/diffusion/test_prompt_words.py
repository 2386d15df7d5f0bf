"""Words of a prompt among a denoiser's text tokens, whatever the encoders pad with and whatever stands around them."""

from __future__ import annotations

import torch

from bridgework.models.experts.diffusion.prompt_words import word_mask

BOS, EOS, PAD = 1, 2, 0


def rows(*ids):
    return torch.tensor(ids)


def found(mask):
    return [row.nonzero().flatten().tolist() for row in mask]


def test_clip_pads_with_its_end_token():
    read = [(rows([BOS, 7, 8, EOS, EOS, EOS], [BOS, 7, 8, 9, 5, EOS]), None)]
    empty = [(rows([BOS, EOS, EOS, EOS, EOS, EOS]), None)]
    assert found(word_mask(read, empty, 6)) == [[1, 2], [1, 2, 3, 4]]


def test_t5_has_an_end_token_and_no_begin():
    read, empty = [(rows([7, 8, EOS, PAD, PAD]), None)], [(rows([EOS, PAD, PAD, PAD, PAD]), None)]
    assert found(word_mask(read, empty, 5)) == [[0, 1]]


def test_a_template_and_left_padding_with_a_mask():
    ids = rows([PAD, PAD, 30, 31, 7, 40], [30, 31, 7, 8, 9, 40])
    empty = [(rows([PAD, PAD, PAD, 30, 31, 40]), rows([0, 0, 0, 1, 1, 1]))]
    assert found(word_mask([(ids, (ids != PAD).long())], empty, 6)) == [[4], [2, 3, 4]]


def test_left_padding_without_a_mask():
    """CogView4: both kinds of begin tokens follow the padding."""
    read = [(rows([PAD, PAD, PAD, 30, 31, 7], [PAD, 30, 31, 7, 8, 9]), None)]
    empty = [(rows([PAD, PAD, PAD, PAD, 30, 31]), None)]
    assert found(word_mask(read, empty, 6)) == [[5], [3, 4, 5]]


def test_a_template_cut_off_before_the_denoiser():
    """Qwen-Image: the states of the first tokens are dropped and the rest padded anew."""
    ids = rows([30, 31, 7, 40, PAD, PAD], [30, 31, 7, 8, 9, 40])
    empty = [(rows([30, 31, 40]), rows([1, 1, 1]))]
    assert found(word_mask([(ids, (ids != PAD).long())], empty, 4)) == [[0], [0, 1, 2]]


def test_encoders_one_after_the_other():
    """SD3: two CLIPs share their tokens, T5's follow; without T5 its places hold zeros and no words."""
    clip = rows([BOS, 7, EOS, EOS])
    t5 = rows([7, 8, EOS, PAD, PAD])
    empty = [(rows([BOS, EOS, EOS, EOS]), None)] * 2 + [(rows([EOS, PAD, PAD, PAD, PAD]), None)]
    assert found(word_mask([(clip, None), (clip, None), (t5, None)], empty, 9)) == [[1, 4, 5]]
    assert found(word_mask([(clip, None), (clip, None)], empty[:2], 9)) == [[1]]


def test_the_encoder_that_read_as_many_is_the_one():
    """Flux: CLIP's vector is pooled, T5's tokens are the text."""
    read = [(rows([BOS, 7, EOS, EOS]), None), (rows([7, 8, EOS, PAD, PAD]), None)]
    empty = [(rows([BOS, EOS, EOS, EOS]), None), (rows([EOS, PAD, PAD, PAD, PAD]), None)]
    assert found(word_mask(read, empty, 5)) == [[0, 1]]
