"""The texts that OneFormer is asked with, and their tokens.

They are those of Jain et al. 2023, section 3.2, and of their code: a task for each image, and for training a text for
each crystal, padded with one that names none.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from crystalbench._exceptions import ConfigurationError

TASK = "the task is instance"
CRYSTAL = "a photo with a crystal"
OTHER = "an instance photo"

LENGTH = 77
"""Tokens of a text, padded with 0."""

VOCABULARY = 49408
"""Number of CLIP's tokens."""

CLIP = {
    TASK: (49406, 518, 10549, 533, 34572, 49407),
    CRYSTAL: (49406, 320, 1125, 593, 320, 6517, 49407),
    OTHER: (49406, 550, 34572, 1125, 49407),
}
"""What CLIP's tokenizer (``openai/clip-vit-base-patch32``) makes of the texts, so that it need not be there."""


def tokens(text: str, tokenizer: str = "clip") -> Tensor:
    """Return the 77 tokens (int64) of one of the three texts.

    Parameters
    ----------
    tokenizer
        ``clip``, or a folder with the files of a tokenizer for CLIP. The network finds the end of a text by its number,
        which must be the highest.

    Raises
    ------
    ConfigurationError
        Where the folder holds no tokenizer, or one of another vocabulary.
    """
    known = CLIP[text] if tokenizer == "clip" else _from_folder(text, Path(tokenizer))
    return torch.tensor([*known, *[0] * (LENGTH - len(known))])


def _from_folder(text: str, folder: Path) -> list[int]:
    from transformers import CLIPTokenizer

    if not folder.is_dir():
        raise ConfigurationError(f"train.oneformer.tokenizer is {str(folder)!r}, which is no folder; give one, or clip")
    try:
        numbers: list[int] = CLIPTokenizer.from_pretrained(folder, local_files_only=True)(text)["input_ids"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{folder} holds no tokenizer for CLIP: {error}") from error
    # Without its files the library makes a tokenizer that knows no letter.
    if not max(numbers[:-1], default=VOCABULARY) < numbers[-1] < VOCABULARY or len(numbers) > LENGTH:
        raise ConfigurationError(f"{folder} holds no tokenizer for CLIP: {text!r} becomes {numbers}")
    return numbers
