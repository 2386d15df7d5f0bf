"""Words of a prompt among what encoders read, whatever they pad with and whatever stands around them."""

from __future__ import annotations

import torch

from bridgework.models.experts.diffusion.prompt_words import EncoderCall, own_tokens, tagged, word_table, words_among

BOS, EOS, PAD = 1, 2, 0


def call(*ids, masked=False, encoder="text_encoder"):
    rows = torch.tensor(ids)
    return EncoderCall(encoder, rows, (rows != PAD).long() if masked else None, torch.zeros(*rows.shape, 4))


def found(read, others, pad=PAD):
    """Positions of each sample's words among the tokens of all calls."""
    table = word_table(read, others, dict.fromkeys(("text_encoder", "text_encoder_2"), pad))
    return [(row.nonzero()[:, 0] - 1).tolist() for row in table]


def test_clip_pads_with_its_end_token():
    others = [[call([BOS, 20, EOS, EOS, EOS, EOS])], [call([BOS, 21, EOS, EOS, EOS, EOS])]]
    read = [call([BOS, 7, 8, EOS, EOS, EOS], [BOS, 7, 8, 9, 5, EOS])]
    assert found(read, others, pad=EOS) == [[1, 2], [1, 2, 3, 4]]


def test_t5_has_an_end_token_and_no_begin():
    others = [[call([20, EOS, PAD])], [call([21, EOS, PAD])]]
    assert found([call([7, 8, EOS, PAD, PAD])], others) == [[0, 1]]


def test_a_template_and_left_padding_with_and_without_a_mask():
    for masked in (True, False):
        others = [[call([PAD, 30, 31, word, 40], masked=masked)] for word in (20, 21)]
        read = [call([PAD, PAD, 30, 31, 7, 40], [30, 31, 7, 8, 9, 40], masked=masked)]
        assert found(read, others) == [[4], [2, 3, 4]]


def test_words_that_the_template_has_too():
    """A caption of the template's own words, and one that begins or ends as another prompt does."""
    others = [[30, 31, 20, 40, 41], [30, 31, 21, 40, 41]]
    assert own_tokens([30, 31, 31, 40, 40, 41], others) == range(2, 4)
    assert own_tokens([30, 31, 20, 7, 21, 40, 41], others) == range(2, 5)
    assert own_tokens([30, 31, 40, 41], others) == range(2, 2)


def test_a_caption_cut_at_the_maximum_length():
    """The template behind is cut with it, wholly or in part; a caption that was not cut keeps it."""
    others = [[30, 20, 40, 41], [30, 21, 40, 41]]
    assert own_tokens([30, 7, 8, 9], others, full=True) == range(1, 4)
    assert own_tokens([30, 7, 8, 40], others, full=True) == range(1, 3)
    assert own_tokens([30, 7, 40, 41], others, full=True) == range(1, 2)


def test_encoders_that_read_prompt_by_prompt():
    others = [[call([30, 20, 40])], [call([30, 21, 40])]]
    read = [call([30, 7, 8, 40]), call([30, 9, 40])]
    assert found(read, others) == [[1, 2], [5]]


def test_states_are_followed_by_their_numbers():
    """As SD3: two encoders beside each other in channels and a third behind; a template cut off; padding zeroed."""
    read = [call([BOS, 7, EOS]), call([BOS, 7, 8], encoder="text_encoder_2")]
    others = [[call([BOS, w, EOS]), call([BOS, w, 99], encoder="text_encoder_2")] for w in (20, 21)]
    table = word_table(read, others, {})
    first, second = tagged(read, None)
    states = torch.cat([torch.cat([first, torch.zeros(1, 3, 4)], -1), torch.cat([second, second], -1)[:, 1:]], 1)
    words, none = words_among(states, table), words_among(states * 0, table)
    assert words is not None and words.tolist() == [[False, True, False, True, True]]
    assert none is not None and not none.any()
    assert words_among(states / 2, table) is None
