from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import FitContext

from crystalbench import ConfigurationError
from crystalbench.registry import find_method

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from test_queries import trained

from crystalbench.adapters import _oneformer_text

# Neubauer et al. 2024, section IV-B, and Swin-T as Jain et al. 2023 have it.
PAPER = {
    "init": "ade20k",
    "input_size": 512,
    "crop_scale": "image",
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "heads": [3, 6, 12, 24],
    "window": 7,
    "queries": 150,
    "epochs": 150,
    "batch_size": 16,
    "optimizer": "adam",
    "lr": 1e-4,
    "warmup_epochs": 10,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def test_paper_preset_is_the_papers() -> None:
    values = find_method("oneformer").preset("paper")
    assert PAPER.items() <= values["train"]["oneformer"].items()
    assert values["decode"]["score_threshold"] == 0.75


def test_parameter_count_is_that_of_the_paper_preset() -> None:
    method = find_method("oneformer")
    segmenter = method.build(method.config.values("paper"))
    with torch.device("meta"):
        network = segmenter.library().network(segmenter.parameters)
    assert method.info.parameters == sum(weights.numel() for weights in network.parameters())
    assert method.info.input_size == segmenter.parameters.input_size == 512


def test_paper_preset_is_the_librarys_configuration() -> None:
    from transformers import OneFormerConfig

    method = find_method("oneformer")
    segmenter = method.build(method.config.values("paper"))
    ours = segmenter.library().config(segmenter.parameters, True).to_dict()
    theirs = OneFormerConfig(num_labels=1, is_training=True).to_dict()
    for config in (ours, theirs):
        # The size of the training images that the library gives has no part in the network.
        del config["backbone_config"]["image_size"]
    assert ours == theirs


def test_the_loss_is_the_librarys(tmp_path: Path) -> None:
    segmenter = trained("oneformer", {"loss_stride": 1})
    model, _ = segmenter.library().initial(segmenter.parameters, FitContext(tmp_path))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(2, 64, 64, dtype=torch.int32)
    targets[0, :20], targets[0, 30:], targets[1, :, 40:] = 1, 5, 2
    masks = [torch.stack([targets[0] == 1, targets[0] == 5]).float(), (targets[1:] == 2).float()]
    classes = [torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)]
    crystal, other = (_oneformer_text.tokens(text) for text in (_oneformer_text.CRYSTAL, _oneformer_text.OTHER))
    texts = torch.stack([torch.stack([crystal, crystal, other]), torch.stack([crystal, other, other])])
    task = _oneformer_text.tokens(_oneformer_text.TASK).expand(2, -1)
    torch.manual_seed(0)
    expected = model(images, task, texts, masks, classes).loss.squeeze()
    torch.manual_seed(0)
    loss = segmenter.library().objective(model, segmenter.parameters)(images, targets)
    torch.testing.assert_close(loss, expected)


def test_dropout_is_off_outside_of_training(tmp_path: Path) -> None:
    segmenter = trained("oneformer", {"dropout": 0.5})
    model, _ = segmenter.library().initial(segmenter.parameters, FitContext(tmp_path))
    objective = segmenter.library().objective(model, segmenter.parameters)
    network = segmenter.library().network(segmenter.parameters)
    network.load_state_dict(objective.network.state_dict())
    images = torch.rand(1, 3, 64, 64)
    learnt, predicted = (each.eval()(images).masks_queries_logits for each in (objective.network, network))
    assert not torch.equal(learnt, predicted)
    objective.eval()
    learnt, again = (objective.network(images).masks_queries_logits for _ in range(2))
    assert torch.equal(learnt, again)
    assert torch.equal(learnt, predicted)
    objective.train()
    first, second = (objective.network(images).masks_queries_logits for _ in range(2))
    assert not torch.equal(first, second)


# Texts


def test_texts_are_padded_to_77_tokens() -> None:
    for text in _oneformer_text.CLIP:
        tokens = _oneformer_text.tokens(text)
        assert (tokens.shape, tokens.dtype) == ((77,), torch.int64)
        # The text encoder looks for the end by its number, the highest.
        assert int(tokens.argmax()) == len(text.split()) + 1


def save_tokenizer(folder: Path, words: list[str]) -> Path:
    """Save a tokenizer in CLIP's form that knows letters, some words and how these are put together."""
    from transformers import CLIPTokenizer

    merges = []
    for word in words:
        for end in range(1, len(word)):
            last = "</w>" if end == len(word) - 1 else ""
            merges.append((word[:end], word[end] + last))
    parts = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *dict.fromkeys(map("".join, merges))]
    vocabulary = [*parts, "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={part: number for number, part in enumerate(vocabulary)}, merges=merges)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_tokenizer_is_read_from_its_folder(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "tokenizer", ["crystal"])
    tokens = [int(token) for token in _oneformer_text.tokens(_oneformer_text.CRYSTAL, str(folder)) if token]
    vocabulary: dict[str, int] = read_vocabulary(folder)
    spelt = ["<|startoftext|>", "a</w>", "p", "h", "o", "t", "o</w>", "w", "i", "t", "h</w>", "a</w>", "crystal</w>"]
    assert tokens == [vocabulary[part] for part in [*spelt, "<|endoftext|>"] if vocabulary[part]]


def read_vocabulary(folder: Path) -> Any:
    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_tokenizer_that_is_none_is_named(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=folder):
        _oneformer_text.tokens(_oneformer_text.TASK, str(tmp_path / folder))


def test_the_task_is_kept_with_the_weights(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "tokenizer", ["task"])
    segmenter = trained("oneformer", {"tokenizer": str(folder)})
    model, _ = segmenter.library().initial(segmenter.parameters, FitContext(tmp_path))
    objective = segmenter.library().objective(model, segmenter.parameters)
    network = segmenter.library().network(segmenter.parameters)
    network.load_state_dict(objective.network.state_dict())
    assert torch.equal(network.task, _oneformer_text.tokens(_oneformer_text.TASK, str(folder)))
