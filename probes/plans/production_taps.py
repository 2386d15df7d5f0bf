"""Which layers of their language models production diffusion pipelines read, scaled to towers of any depth.

To add a pipeline, add its row to `TAPS` here.
"""

from __future__ import annotations

from typing import NamedTuple

from ..arguments import checked
from .matching import MOST_BLOCKS, check_blocks


class Taps(NamedTuple):
    """What a pipeline reads of its language model, as read in diffusers 0.42.1.

    Attributes
    ----------
    language_model : str
        The family of the language model.
    states : tuple of tuple of int
        Which of its `hidden_states`: 0 is the embeddings, i what block i - 1 returns, -1 the last of all. Several
        tuples are read by so many parts of the generator, first parts first. () is all of them.
    depth : int or None
        The blocks of the language model, where its class in transformers has, by default, the width that the pipeline's
        transformer takes, or models/costs/published_configs holds its config. None is not known.
    """

    language_model: str
    states: tuple[tuple[int, ...], ...]
    depth: int | None = None


TAPS: dict[str, Taps] = {
    "FLUX.2": Taps("Mistral3", ((10, 20, 30),), 40),
    "FLUX.2-klein": Taps("Qwen3", ((9, 18, 27),)),
    "FLUX.3": Taps("Qwen3-VL", ((4, 8, 12, 16, 20, 24, 28, 32),)),
    "Krea-2": Taps("Qwen3-VL", ((2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35),)),
    # counted from 0 by block there
    "Ideogram-4": Taps("Qwen3-VL", ((1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 36),)),
    # of its five blocks that read text, which stand in the five parts of its depth; its Perceiver reads 9, 20 and 31
    "Fibo-2": Taps("Qwen3-VL", ((5, 16, 27), (7, 18, 29), (9, 20, 31), (11, 22, 33), (13, 24, 35))),
    "MiniMax-H3": Taps("Qwen3-VL", ((50,),)),
    "HiDream": Taps("Llama", ()),
    "LTX-2": Taps("Gemma3", ()),
    "NucleusMoE-Image": Taps("Qwen3-VL", ((-8,),)),
    "HunyuanVideo": Taps("Llama", ((-3,),), 32),
    "HunyuanImage": Taps("Qwen2.5-VL", ((-3,),), 28),
    "Z-Image": Taps("not named", ((-2,),)),
    "Lumina2": Taps("Gemma2", ((-2,),)),
    "CogView4": Taps("GLM", ((-2,),), 40),
    "Qwen-Image": Taps("Qwen2.5-VL", ((-1,),), 28),
    "Sana": Taps("Gemma2", ((-1,),), 26),
}


def published_taps(
    pipeline: str, understanding_layers: int, generation_layers: int, depth: int | None = None
) -> tuple[tuple[int, ...], ...] | None:
    """Return the understanding blocks that a production pipeline would mix, for towers of so many blocks.

    A layer becomes the block that lies nearest in depth, of two the later one; block i of n lies at depth (i + 1) / n.
    Layers that fall on one block are named once. The embeddings, which LTX-2 reads too, are no block.

    Parameters
    ----------
    pipeline : str
        A name of `TAPS`.
    understanding_layers, generation_layers : int
        The number of blocks of the two towers.
    depth : int, optional
        The number of blocks of the pipeline's own language model, `num_hidden_layers` in its config. By default that of
        `TAPS`.

    Returns
    -------
    tuple of tuple of int, or None
        The `taps` of a plan that bridges every generation block: one tuple for all, or one for each; None for a
        pipeline that reads all layers.

    Raises
    ------
    ValueError
        The pipeline is unknown, the depth of its language model is not known, or it has fewer blocks than are read.
    TypeError
        A depth is no whole number.

    See Also
    --------
    lay_out : Takes the name of a pipeline as taps of the layout "soft".

    Examples
    --------
    >>> published_taps("FLUX.2", 40, 13), published_taps("FLUX.2", 16, 13)
    (((9, 19, 29),), ((3, 7, 11),))
    >>> published_taps("Krea-2", 6, 13, depth=36)
    ((0, 1, 2, 3, 4, 5),)
    """
    checked("pipeline", pipeline, str, known=TAPS)
    check_blocks(understanding_layers, generation_layers)
    checked("depth", depth, int | None, least=1, most=MOST_BLOCKS)
    model, states, known = TAPS[pipeline]
    if not states:
        return None
    depth = known if depth is None else depth
    if depth is None:
        raise ValueError(
            f"how many blocks the language model of {pipeline} ({model}) has is not known here: pass "
            f"taps=published_taps({pipeline!r}, {understanding_layers}, {generation_layers}, depth=), with depth the "
            "num_hidden_layers of its config"
        )
    counted = [[state if state >= 0 else depth + 1 + state for state in part] for part in states]
    if wrong := [state for part in counted for state in part if not 1 <= state <= depth]:
        raise ValueError(
            f"{pipeline} reads hidden state {wrong[0]}, and behind the blocks of a language model of {depth} are 1 to "
            f"{depth}: pass the depth of its own, num_hidden_layers of the config"
        )
    parts = [
        tuple(sorted({max(int(state * understanding_layers / depth + 0.5) - 1, 0) for state in part}))
        for part in counted
    ]
    if len(parts) == 1:
        return (parts[0],)
    return tuple(parts[block * len(parts) // generation_layers] for block in range(generation_layers))
