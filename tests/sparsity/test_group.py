"""An algorithm of its own for each part of a network."""

from inspect import get_annotations

import pytest
import torch

from rigl_lightning import SparseTrainingCallback
from rigl_lightning.reports.layer_table import layer_table
from rigl_lightning.sparsity import (
    ACDC,
    DNW,
    SET,
    SNFS,
    DeepR,
    Dense,
    ErdosRenyi,
    Group,
    RigL,
    RigLITOP,
    SparseAlgorithm,
    Sparsifier,
    SparsityRamp,
    Static,
    TopKAST,
    UpdateSchedule,
    select_parameters,
)
from rigl_lightning.sparsity.algorithms import describe
from tests.helpers.small_training import small_network, sparsify, train

SHAPES = {"a.attn.weight": (40, 40), "a.mlp.weight": (80, 40), "b.attn.weight": (40, 40), "b.mlp.weight": (80, 40)}
SCHEDULE = UpdateSchedule(interval=10, end=0.5)
TWO = Group({"*.attn": Static(0.5), "*.mlp": RigL(0.9, schedule=SCHEDULE)})


def test_each_layer_has_the_sparsity_of_its_algorithm():
    found = TWO.resolve(100).layer_sparsities(SHAPES, 0)
    assert list(found) == list(SHAPES)
    assert {n: s for n, s in found.items() if "attn" in n} == Static(0.5).layer_sparsities(SHAPES_OF["attn"], 0)
    assert {n: s for n, s in found.items() if "mlp" in n} == RigL(0.9).layer_sparsities(SHAPES_OF["mlp"], 0)


SHAPES_OF = {kind: {n: s for n, s in SHAPES.items() if kind in n} for kind in ("attn", "mlp")}


def test_the_first_pattern_that_names_a_layer_has_it():
    group = Group({"a.*": Static(0.5), "*.mlp": RigL(0.9), "*": Dense()})
    assert group.parts(SHAPES) == {
        "a.*": ["a.attn.weight", "a.mlp.weight"],
        "*.mlp": ["b.mlp.weight"],
        "*": ["b.attn.weight"],
    }


def test_only_the_layers_of_the_algorithm_that_updates_move():
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    group = Group(
        {
            "0": SET(0.5, schedule=UpdateSchedule(4, 0, 12), drop_fraction=0.5),
            "4": SET(0.7, schedule=UpdateSchedule(3, 1, 12)),
        }
    )
    sparsifier = sparsify(model, group, total_steps=12)
    moved = {"0.weight": [], "4.weight": []}
    for step in range(12):
        before = sparsifier.checksums()
        train(model, optimizer, sparsifier, [step])
        for name, checksum in sparsifier.checksums().items():
            if checksum != before[name]:
                moved[name].append(step)
    assert moved == {"0.weight": [0, 4, 8], "4.weight": [1, 4, 7, 10]}


@pytest.mark.parametrize(
    "member", [RigL(0.7, schedule=SCHEDULE), ACDC(0.7, warm_up=4, phase=4, last=20)], ids=lambda m: type(m).__name__
)
def test_a_group_of_one_is_that_algorithm(member):
    weights = []
    for algorithm in (member, Group({"*": member})):
        model = small_network()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        sparsifier = sparsify(model, algorithm, total_steps=30)
        train(model, optimizer, sparsifier, range(30))
        weights.append(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


OPTIONAL = [name for name, kind in get_annotations(SparseAlgorithm).items() if "Callable" in str(kind)]


@pytest.mark.parametrize("question", [name for name in OPTIONAL if getattr(SparseAlgorithm, name) is None])
def test_what_only_some_algorithms_are_asked_is_handed_on_or_refused(question):
    class Answers(RigL):
        pass

    setattr(Answers, question, lambda *_: None)
    if question in ("penalty_gradient", "grow_init"):
        with pytest.raises(ValueError, match=question.replace("_", " ")):
            Group({"*": Answers(0.7)})
    else:
        assert getattr(Group({"*": Answers(0.7)}), question) is not None


def test_what_a_member_remembers_is_its_own():
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    both = Group({"0": DeepR(0.5), "4": DeepR(0.7, l1=0.03, temperature=0.01)})
    sparsifier = sparsify(model, both, total_steps=10)
    assert set(sparsifier.memory) == {"0: positive/0.weight", "4: positive/4.weight"}
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    train(model, optimizer, sparsifier, range(10))
    assert not torch.equal(sparsifier.masks["4.weight"], before["4.weight"])


def test_the_table_before_training_says_which_layer_has_which():
    table = layer_table(TWO.resolve(100), SHAPES, 100)
    assert "Group(algorithms={'*.attn': Static(sparsity=0.5), '*.mlp': RigL(" in table
    assert "algorithm" in table.splitlines()[2]
    rows = {line.split()[0]: line.split()[-1] for line in table.splitlines() if ".weight" in line}
    assert rows == {name: "Static" if "attn" in name else "RigL" for name in SHAPES}


def test_a_longer_training_stretches_every_member():
    group = Group({"a": RigL(schedule=UpdateSchedule(10, 0, 100)), "b": Static()})
    assert group.stretched(2).algorithms["a"].schedule.end == 200


def test_a_ramp_in_a_group():
    group = Group({"*.attn": Dense(), "*.mlp": SET(SparsityRamp(0.0, 0.8), ErdosRenyi())}).resolve(1000)
    assert group.layer_sparsities(SHAPES, 0) == dict.fromkeys(SHAPES, 0.0)
    assert group.final_sparsities(SHAPES)["a.mlp.weight"] == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Group({}), "patterns with algorithms"),
        (lambda: Group([RigL()]), "patterns with algorithms"),
        (lambda: Group({"a": 0.5}), "an algorithm for 'a', got 0.5"),
        (lambda: Group({"a": RigL(), "b": SET()}), "RigL for 'a' .True., SET for 'b' .False.: `replaces_step`"),
        (lambda: Group({"a": DNW(), "b": SET()}), "hides_inactive_weights"),
        (lambda: Group({"a": SNFS(), "b": RigLITOP()}), "grad_average_decay"),
        (lambda: Group({"a": TopKAST(), "b": Static()}), "TopKAST for 'a': its penalty gradient"),
        (lambda: Group({"*.attn": RigL()}).layer_sparsities(SHAPES, 0), "got none for a.mlp.weight.*at last"),
        (lambda: Group({"*": RigL(), "*.mlp": Static()}).parts(SHAPES), "none that is left for '.*mlp'"),
        (lambda: Group({"conv": RigL()}).parts(SHAPES), "`algorithms` to name sparse layers, but 'conv'"),
    ],
)
def test_what_cannot_go_together_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_static_and_dense_go_with_all():
    for member in (RigL(), SET(), SNFS(), DNW()):
        group = Group({"a": Static(0.5), "b": member, "c": Dense()})
        assert (group.replaces_step, group.hides_inactive_weights) == (
            member.replaces_step,
            member.hides_inactive_weights,
        )


def test_dense_gradients_are_read_when_a_member_reads_them():
    group = TWO.resolve(100)
    assert [step for step in range(30) if group.needs_dense_gradient(step)] == [0, 10, 20]


def test_a_checkpoint_says_what_the_group_was_and_another_one_is_refused():
    model = small_network()
    state = Sparsifier(select_parameters(model), Group({"0": Static(0.5), "4": SET(0.7)}), 100).state_dict()
    assert state["algorithm"] == describe(Group({"0": Static(0.5), "4": SET(0.7)}).resolve(100))
    with pytest.raises(ValueError, match="algorithms"):
        Sparsifier(select_parameters(model), Group({"0": Static(0.5), "4": SET(0.8)}), 100, state=state)


def test_a_callback_takes_it():
    assert SparseTrainingCallback(TWO).algorithm is TWO
