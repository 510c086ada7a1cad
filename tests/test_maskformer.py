from __future__ import annotations

from pathlib import Path

import pytest
from conftest import FitContext

from crystalbench.registry import find_method

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from test_queries import trained

# Neubauer et al. 2024, section IV-B, and Swin-B as Cheng et al. 2021 have it.
PAPER = {
    "init": "ade20k",
    "input_size": 512,
    "crop_scale": "image",
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "heads": [4, 8, 16, 32],
    "window": 12,
    "queries": 100,
    "epochs": 500,
    "batch_size": 32,
    "optimizer": "adam",
    "lr": 5e-5,
    "warmup_epochs": 10,
}


def test_paper_preset_is_the_papers() -> None:
    values = find_method("maskformer").preset("paper")
    assert PAPER.items() <= values["train"]["maskformer"].items()
    assert values["decode"]["score_threshold"] == 0.25


def test_parameter_count_is_that_of_the_paper_preset() -> None:
    method = find_method("maskformer")
    segmenter = method.build(method.config.values("paper"))
    with torch.device("meta"):
        network = segmenter.library().network(segmenter.parameters)
    assert method.info.parameters == sum(weights.numel() for weights in network.parameters())
    assert method.info.input_size == segmenter.parameters.input_size == 512


def test_paper_preset_is_the_librarys_configuration() -> None:
    from transformers import MaskFormerConfig

    method = find_method("maskformer")
    segmenter = method.build(method.config.values("paper"))
    ours = segmenter.library().config(segmenter.parameters, True).to_dict()
    theirs = MaskFormerConfig(num_labels=1).to_dict()
    # The size of the training images that the library gives has no part in the network.
    for config in (ours, theirs):
        del config["backbone_config"]["image_size"]
    assert ours == theirs


@pytest.mark.parametrize("auxiliary", [True, False])
def test_the_loss_is_the_librarys(auxiliary: bool, tmp_path: Path) -> None:
    segmenter = trained("maskformer", {"auxiliary_loss": auxiliary, "loss_stride": 1})
    model, _ = segmenter.library().initial(segmenter.parameters, FitContext(tmp_path))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(2, 64, 64, dtype=torch.int32)
    targets[0, :20], targets[0, 30:], targets[1, :, 40:] = 1, 5, 2
    masks = [torch.stack([targets[0] == 1, targets[0] == 5]).float(), (targets[1:] == 2).float()]
    classes = [torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)]
    expected = model(images, masks, classes, output_hidden_states=True).loss
    expected.backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    loss = segmenter.library().objective(model, segmenter.parameters)(images, targets)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close([w.grad for w in model.parameters() if w.grad is not None], gradients)


def test_predicts_what_training_sees(tmp_path: Path) -> None:
    segmenter = trained("maskformer")
    model, _ = segmenter.library().initial(segmenter.parameters, FitContext(tmp_path))
    network = segmenter.library().network(segmenter.parameters)
    objective = segmenter.library().objective(model, segmenter.parameters)
    network.load_state_dict(objective.network.state_dict())
    images = torch.rand(1, 3, 64, 64)
    learnt = model.eval()(images, output_hidden_states=True)
    predicted = network.eval()(images)
    torch.testing.assert_close(predicted.masks_queries_logits, learnt.masks_queries_logits)
    torch.testing.assert_close(predicted.class_queries_logits, learnt.class_queries_logits)
