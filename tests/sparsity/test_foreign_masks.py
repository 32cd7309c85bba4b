"""Masks that other packages left: each form arrives as the same masks, and what cannot be meant is refused."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from rigl_lightning import FixedMasks, LotteryTicket, RigL, Static
from rigl_lightning.sparsity.parameters import select_parameters
from tests.helpers.small_training import small_network, sparsify

SHAPES = {name: p.shape for name, p in select_parameters(small_network()).items()}
CONV, LINEAR = SHAPES


def some_masks():
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(shape, generator=generator) < 0.3 for name, shape in SHAPES.items()}


def pruned_state_dict():
    """A network that `torch.nn.utils.prune` has pruned to `some_masks`."""
    model = small_network()
    for name, mask in some_masks().items():
        prune.custom_from_mask(model.get_submodule(name.removesuffix(".weight")), "weight", mask)
    return model.state_dict()


def rigl_torch_state():
    """What the scheduler's state_dict holds: masks of ones and zeros in order, and much that is not needed."""
    masks = [mask.float() for mask in some_masks().values()]
    hyperparams = {"delta_T": 100, "alpha": 0.3, "T_end": 750, "static_topo": False}
    return {"S": [0.7, 0.7], "N": [36, 256], "hyperparams": hyperparams, "step": 9, "backward_masks": masks}


FORMS = {
    "booleans by name": some_masks,
    "floats by name": lambda: {name: mask.float() for name, mask in some_masks().items()},
    "bytes by name": lambda: {name: mask.to(torch.uint8) for name, mask in some_masks().items()},
    "from DistributedDataParallel": lambda: {f"module.{name}": mask for name, mask in some_masks().items()},
    "from torch.compile": lambda: {f"_orig_mod.{name}": mask for name, mask in some_masks().items()},
    "torch.nn.utils.prune": pruned_state_dict,
    "torch.nn.utils.prune in a checkpoint": lambda: {"epoch": 3, "state_dict": pruned_state_dict()},
    "torch.nn.utils.prune beside buffers that mask no weight": lambda: {
        "swin.attn_mask": torch.full((2, 2), -100.0),
        **pruned_state_dict(),
        "causal_mask": torch.ones(2, 2).tril().bool(),
    },
    "the masks of a Masking of sparselearning, beside the network": lambda: {
        "state_dict": small_network().state_dict(),
        "masks": {name: mask.float() for name, mask in some_masks().items()},
    },
    "rigl-torch": rigl_torch_state,
    "rigl-torch in a checkpoint": lambda: {"model": small_network().state_dict(), "pruner": rigl_torch_state()},
}


def saved(folder, content):
    torch.save(content, folder / "masks.pt")
    return folder / "masks.pt"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:Nobody can tell")
def test_every_form_gives_the_masks(form, tmp_path):
    path = saved(tmp_path, FORMS[form]())
    for algorithm in (FixedMasks(path), LotteryTicket(path)):
        sparsifier = sparsify(small_network(), algorithm)
        assert sparsifier.masks.keys() == SHAPES.keys()
        assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in some_masks().items())


@pytest.mark.parametrize("form", FORMS)
def test_the_network_may_have_become_part_of_another(form, tmp_path):
    """Such as a LightningModule's attribute."""
    whole = nn.ModuleDict({"model": small_network()})
    sparsifier = sparsify(whole, FixedMasks(saved(tmp_path, FORMS[form]())))
    assert all(torch.equal(sparsifier.masks[f"model.{name}"], mask) for name, mask in some_masks().items())


def test_a_network_with_an_attention_mask_has_no_masks_of_weights(tmp_path):
    state = {"causal_mask": torch.ones(2, 2).tril().bool(), **small_network().state_dict()}
    with pytest.raises(ValueError, match="Expected the masks of one SparseTrainingCallback"):
        sparsify(small_network(), FixedMasks(saved(tmp_path, {"state_dict": state})))


def test_rigl_goes_on_from_the_masks_of_another_package(tmp_path):
    path = saved(tmp_path, rigl_torch_state())
    with pytest.warns(UserWarning, match="another package"):
        sparsifier = sparsify(small_network(), LotteryTicket(path, RigL(0.7)), total_steps=1000)
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in some_masks().items())


def test_a_layer_that_rigl_torch_left_dense_has_no_mask_there(tmp_path):
    sparsifier = sparsify(
        small_network(), FixedMasks(saved(tmp_path, {"backward_masks": [None, some_masks()[LINEAR]]}))
    )
    assert sparsifier.masks[CONV].all()
    assert torch.equal(sparsifier.masks[LINEAR], some_masks()[LINEAR])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"backward_masks": [torch.ones(4, 1, 3, 3)]}, "each of the 2 sparse layers, found 1, without names.*include"),
        ({"backward_masks": list(some_masks().values())[::-1]}, f"mask 0.*'{CONV}' of shape.*include and exclude"),
        ({"backward_masks": [None, "all"]}, r"tensor as mask 'backward_masks\[1\]', got str"),
        ({CONV: torch.full(SHAPES[CONV], 0.5)}, f"zeros and ones in '{CONV}'"),
        (small_network().state_dict(), "zeros and ones in .*weight != 0"),
        ({CONV: some_masks()[CONV]}, f"'{LINEAR}' has shape .* None in the checkpoint .*`include` and `exclude`"),
        ({**some_masks(), "9.weight": torch.ones(2)}, "'9.weight' has shape None in the model"),
        ({**some_masks(), CONV: torch.ones(2)}, f"'{CONV}' has shape .*in the model"),
        ([some_masks()], "masks of one SparseTrainingCallback .*torch.nn.utils.prune"),
        ({"masks": {}, "model": 3}, "zero|masks of one|to fit the model"),
        ({"scheduler": FixedMasks("a")}, "tensors and plain numbers .*could run code.*name: mask.*backward_masks"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sparsify(small_network(), FixedMasks(saved(tmp_path, content)))


def test_the_masks_hold_in_training(tmp_path):
    from tests.helpers.small_training import train

    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = sparsify(model, FixedMasks(saved(tmp_path, pruned_state_dict())))
    train(model, optimizer, sparsifier, range(3))
    assert not any(p[~sparsifier.masks[name]].any() for name, p in sparsifier.parameters.items())
    assert sparsifier.density() != sparsify(small_network(), Static(0.7)).density()
