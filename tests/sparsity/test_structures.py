"""Structures: by hand, against the unstructured result where both must agree, and as invariants of real trainings."""

import itertools
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning.reports.layer_table import layer_table
from rigl_lightning.sparsity import masks
from rigl_lightning.sparsity.algorithms import SET, SNFS, RigL, Static
from rigl_lightning.sparsity.costs.training import planned_inference_flops
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform, active_counts
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.selection import largest_per_row
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.sparsity.structures import NM, Blocks, ConstantFanIn, Unstructured
from rigl_lightning.sparsity.transposable import TransposableNM
from tests.helpers.small_training import batch, flags, written

EVERYWHERE = Uniform(first_layer_dense=False)
SHAPES = [(8, 16), (12, 8, 3, 3), (4, 8, 5), (16, 4, 1, 1)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scores_for(shape, seed, tied=False):
    score = torch.rand(shape, generator=seeded(seed))
    return (score * 4).floor() if tied else score


def groups(mask, m):
    """Active connections in every m consecutive inputs, written without the code's own view."""
    return torch.stack([mask[:, start : start + m].sum(1) for start in range(0, mask.shape[1], m)])


def whole_blocks(mask, rows, columns):
    """Whether every block is all True or all False."""
    return all(
        len(mask[r : r + rows, c : c + columns, ...].flatten(0, 1).unique(dim=0)) == 1
        for r in range(0, mask.shape[0], rows)
        for c in range(0, mask.shape[1], columns)
    )


def fan_ins(mask):
    return mask.flatten(1).sum(1)


class TestLargestPerRow:
    @pytest.mark.parametrize("tied", [False, True])
    def test_it_is_a_stable_sort_of_every_row(self, tied):
        for seed in range(30):
            score = scores_for((7, 9), seed, tied)
            score[0, 0], score[1, 1] = torch.inf, -torch.inf
            candidates = torch.rand(7, 9, generator=seeded(seed + 100)) < 0.7
            counts = (candidates.sum(1) * torch.rand(7, generator=seeded(seed))).round().long()
            chosen = largest_per_row(score, counts, candidates)
            for row in range(7):
                order = [
                    i for i in score[row].sort(descending=True, stable=True).indices.tolist() if candidates[row, i]
                ]
                assert chosen[row].nonzero().view(-1).tolist() == sorted(order[: counts[row]])

    def test_a_candidate_without_a_number_is_refused(self):
        score = torch.tensor([[1.0, torch.nan]])
        assert largest_per_row(score, torch.tensor([1]), torch.tensor([[True, False]])).tolist() == [[True, False]]
        with pytest.raises(ValueError, match="NaN"):
            largest_per_row(score, torch.tensor([1]), torch.ones(1, 2, dtype=torch.bool))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
    def test_any_kind_of_number(self, dtype):
        score = torch.tensor([[3, 1, 2], [0, 0, 0]]).to(dtype)
        chosen = largest_per_row(score, torch.tensor([2, 1]), torch.ones(2, 3, dtype=torch.bool))
        assert chosen.int().tolist() == [[1, 0, 1], [1, 0, 0]]


class TestByHand:
    def test_two_of_four(self):
        mask = flags("11.. ..11").view(1, 8)
        drop = torch.tensor([[0.1, 0.9, 0, 0, 0, 0, 0.8, 0.2]])
        grow = torch.tensor([[0.0, 9.0, 1.0, 2.0, 3.0, 4.0, 9.0, 0.5]])
        # One drop: 0, and its group grows 3. Two: also 7, whose group grows 5. Survivors' scores are not read.
        assert written(NM(2, 4).drop_and_grow(mask, drop, grow, 1)) == ".1.1..11"
        assert written(NM(2, 4).drop_and_grow(mask, drop, grow, 2)) == ".1.1.11."

    def test_groups_of_a_convolution_run_along_its_inputs(self):
        mask = NM(1, 2).random_mask((1, 4, 1, 2), 4, seeded())
        for position in range(2):
            assert mask[0, :2, 0, position].sum() == mask[0, 2:, 0, position].sum() == 1

    def test_blocks_move_as_one(self):
        mask = flags("11.. 11.. .... ....").view(4, 4)
        drop = torch.zeros(4, 4)
        grow = torch.zeros(4, 4)
        grow[2, 0] = 5.0  # one large member: sum 5
        grow[2:, 2:] = 1.5  # sum 6
        assert written(Blocks((2, 2)).drop_and_grow(mask, drop, grow, 4)) == "..........11..11"
        assert Blocks((2, 2)).drop_and_grow(mask, drop, grow, 3) is mask  # less than a block

    def test_each_kernel_position_has_blocks_of_its_own(self):
        mask = Blocks((2, 2)).random_mask((2, 2, 3), 4, seeded())
        assert sorted(mask.sum((0, 1)).tolist()) == [0, 0, 4]

    # Four neurons of six inputs, fan-in 2.
    MASK = flags("11.... 11.... 11.... 11....").view(4, 6)
    WEIGHT = torch.tensor(
        [[0.9, 0.8, 0, 0, 0, 0], [0.7, 0.6, 0, 0, 0, 0], [0.05, 0.5, 0, 0, 0, 0], [0.02, 0.01, 0, 0, 0, 0]]
    )

    def gradient(self, *rows):
        return torch.tensor(rows, dtype=torch.float).view(4, 6)

    def test_without_ablation_each_neuron_regrows_what_it_lost(self):
        grow = self.gradient([9] * 6, [9] * 6, [0, 0, 1, 2, 3, 4], [0.1, 0.2, 0, 0, 0, 0.3])
        # The layer's three smallest go: .05 of neuron 2, both of neuron 3. Grown: 5; then 5 and 1.
        new = ConstantFanIn(ablation=False).drop_and_grow(self.MASK, self.WEIGHT, grow, 3)
        assert written(new) == "11...." + "11...." + ".1...1" + ".1...1"

    def test_a_neuron_without_salient_connections_is_ablated_and_the_others_share_its_budget(self):
        # Dropped: .05 of neuron 2 and both of neuron 3. By gradient chosen: three of neuron 0. So neuron 3 has no
        # salient connection; 8 connections for three neurons are 2 each, 6 in all.
        grow = self.gradient([0, 0, 7, 8, 9, 0], [0] * 6, [0, 0, 0, 0, 2, 1], [0] * 6)
        new = ConstantFanIn().drop_and_grow(self.MASK, self.WEIGHT, grow, 3, budget=8)
        assert written(new) == "11...." + "11...." + ".1..1." + "......"
        # One of the three dropped was not of an ablated neuron. With K = 2 both are, and nobody else drops.
        new = ConstantFanIn().drop_and_grow(self.MASK, self.WEIGHT, grow, 2, budget=8)
        assert written(new) == "11...." + "11...." + "11...." + "......"

    def test_two_ablated_neurons_double_the_fan_in(self):
        # min_salient 1: a neuron needs k = 2 salient ones. Neurons 2 (one) and 3 (none) go; 8 / 2 = 4 each.
        grow = self.gradient([0, 0, 7, 8, 9, 0], [0, 0, 1, 0, 0, 2], [0] * 6, [0] * 6)
        new = ConstantFanIn(min_salient=1.0).drop_and_grow(self.MASK, self.WEIGHT, grow, 3, budget=8)
        assert written(new) == "11.11." + "111..1" + "......" + "......"

    def test_an_ablated_neuron_comes_back_by_its_gradient(self):
        mask, weight = self.MASK.clone(), self.WEIGHT.clone()
        mask[3], weight[3] = False, 0
        grow = self.gradient([0] * 6, [0] * 6, [0] * 6, [0, 0, 8, 0, 0, 9])
        new = ConstantFanIn().drop_and_grow(mask, weight, grow, 2, budget=8)
        # Dropped: .05 and .5 of neuron 2, which goes; neuron 3 returns with the two that were chosen.
        assert written(new) == "11...." + "11...." + "......" + "..1..1"

    def test_neurons_enough_to_hold_the_budget_stay_whatever_the_threshold(self):
        # Budget 8 of six inputs needs two neurons. Nothing is salient but the kept ones of neuron 0.
        weight = self.WEIGHT.clone()
        weight[0] += 1
        grow = self.gradient([0, 0, 9, 9, 9, 9], [0] * 6, [0] * 6, [0] * 6)
        new = ConstantFanIn(min_salient=1.0).drop_and_grow(self.MASK, weight, grow, 6, budget=8)
        assert fan_ins(new).tolist() == [4, 4, 0, 0]  # neuron 1 by position

    def test_a_neuron_that_kept_too_many_loses_the_lowest(self):
        # A fan-in of 4 in two neurons. Kept: 9, 7, 6, 5. By gradient neurons 2 and 3 return: the fan-in falls to 2.
        mask = flags("1111.. 1111.. ...... ......").view(4, 6)
        weight = torch.tensor([[1, 9, 3, 2, 0, 0], [5, 6, 7, 4, 0, 0], [0] * 6, [0] * 6]).float()
        grow = self.gradient([0] * 6, [0] * 6, [1, 2, 0, 0, 0, 0], [0, 0, 0, 0, 3, 4])
        new = ConstantFanIn().drop_and_grow(mask, weight, grow, 4, budget=8)
        # Neuron 0 keeps 9 and grows the first of equals; neuron 1 loses 5.
        assert written(new) == "11...." + ".11..." + "11...." + "....11"

    def test_the_last_layer_and_named_ones_keep_their_neurons(self):
        names = ["a.weight", "gates.weight", "head.weight"]
        assert ConstantFanIn().ablated_layers(names) == ["a.weight", "gates.weight"]
        assert ConstantFanIn(never_ablate=("gates",)).ablated_layers(names) == ["a.weight"]
        assert ConstantFanIn(ablation=False).ablated_layers(names) == []
        with pytest.raises(ValueError, match=r"`structure\.never_ablate` to name sparse layers.*Did you mean 'gates"):
            ConstantFanIn(never_ablate=("gtaes",)).ablated_layers(names)


class TestTrivialStructures:
    @pytest.mark.parametrize(("shape", "tied"), itertools.product(SHAPES, (False, True)))
    def test_blocks_of_one_are_the_unstructured_result(self, shape, tied):
        one, free = Blocks((1, 1)), Unstructured()
        size = torch.Size(shape).numel()
        for seed in range(10):
            n_active = int(size * 0.1 * (seed + 0.5))
            sparsities = {"a": 1 - n_active / size}
            assert active_counts({"a": shape}, one.layer_sparsities({"a": shape}, sparsities)) == {"a": n_active}
            mask = one.random_mask(shape, n_active, seeded(seed))
            assert torch.equal(mask, free.random_mask(shape, n_active, seeded(seed)))
            drop, grow = scores_for(shape, seed, tied), scores_for(shape, seed + 1, tied)
            for n_update in (1, n_active // 3, n_active):
                new = one.drop_and_grow(mask, drop, grow, n_update)
                assert torch.equal(new, masks.drop_and_grow(mask, drop, grow, n_update))

    @pytest.mark.parametrize(("n", "tied"), itertools.product((1, 3, 7), (False, True)))
    def test_a_group_of_all_inputs_is_a_constant_fan_in(self, n, tied):
        shape = (12, 16)
        group, fan_in = NM(n, 16), ConstantFanIn(ablation=False)
        for seed in range(10):
            mask = group.random_mask(shape, 12 * n, seeded(seed))
            assert torch.equal(mask, fan_in.random_mask(shape, 12 * n, seeded(seed)))
            drop, grow = scores_for(shape, seed, tied), scores_for(shape, seed + 1, tied)
            new = group.drop_and_grow(mask, drop, grow, 4 * n)
            assert torch.equal(new, fan_in.drop_and_grow(mask, drop, grow, 4 * n))
            assert fan_ins(new).tolist() == [n] * 12

    def test_unstructured_training_is_what_it_was(self):
        """The setting's default changes nothing: same masks as masks.py alone gives."""
        shapes = {"a": (10, 30)}
        first = RigL(0.8).initial_masks(shapes, lambda name: seeded(5))
        assert torch.equal(first["a"], masks.random_mask((10, 30), 60, seeded(5)))
        assert repr(RigL()).count("structure=Unstructured()") == 1


class TestFuzzing:
    @pytest.mark.parametrize(("shape", "tied"), itertools.product(SHAPES, (False, True)))
    def test_structure_and_count_survive_any_update(self, shape, tied):
        size = torch.Size(shape).numel()
        for seed, fraction in itertools.product(range(8), (0.05, 0.3, 1.0)):
            for structure, sparsity in (
                (NM(2, 4), 0.5),
                (NM(1, 4), 0.75),
                (Blocks((4, 2)), 0.6),
                (Blocks((2, 4)), 0.9),
            ):
                n_active = active_counts({"a": shape}, structure.layer_sparsities({"a": shape}, {"a": sparsity}))["a"]
                mask = structure.random_mask(shape, n_active, seeded(seed))
                drop, grow = scores_for(shape, seed, tied), scores_for(shape, seed + 9, tied)
                new = structure.drop_and_grow(mask, drop, grow, int(n_active * fraction))
                for m in (mask, new):
                    assert int(m.sum()) == n_active
                    if isinstance(structure, NM):
                        assert (groups(m, structure.m) == structure.n).all()
                    else:
                        assert whole_blocks(m, *structure.shape)
                n_lost = int((mask & ~new).sum())
                assert n_lost <= int(n_active * fraction)
                survivors = mask & new
                if n_lost and isinstance(structure, NM):  # the lowest of the layer went
                    assert drop[mask & ~new].max() <= drop[survivors].max() or fraction == 1.0
                assert size >= n_active

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_neuron_has_the_same_fan_in_or_none(self, shape):
        ablated = 0
        size, inputs = torch.Size(shape).numel(), torch.Size(shape[1:]).numel()
        for seed, sparsity, salient in itertools.product(range(8), (0.3, 0.6, 0.9), (0.0, 0.3, 1.0)):
            structure = ConstantFanIn(salient)
            budget = active_counts({"a": shape}, structure.layer_sparsities({"a": shape}, {"a": sparsity}))["a"]
            assert budget % shape[0] == 0
            mask = structure.random_mask(shape, budget, seeded(seed))
            assert fan_ins(mask).unique().tolist() == [budget // shape[0]]
            for update in range(4):
                # Neurons differ much in how useful they are.
                worth = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=seeded(seed)) ** 4
                drop = torch.rand(shape, generator=seeded(100 * seed + update)) * worth * mask
                grow = torch.rand(shape, generator=seeded(100 * seed + update + 50)) * worth
                n_update = int(0.4 * int(mask.sum()))
                mask = structure.drop_and_grow(mask, drop, grow, n_update, budget)
                staying = fan_ins(mask)[fan_ins(mask) > 0]
                assert len(staying.unique()) == 1
                assert budget - len(staying) < int(mask.sum()) <= budget
                assert len(staying) >= -(-budget // inputs)
                ablated += shape[0] - len(staying)
        assert ablated > 0
        assert size > 0

    def test_a_layer_that_offers_nothing_at_all_keeps_a_neuron(self):
        mask = ConstantFanIn().random_mask((5, 7), 5, seeded())
        new = ConstantFanIn(1.0).drop_and_grow(mask, torch.zeros(5, 7), torch.zeros(5, 7), 5, budget=5)
        assert int((fan_ins(new) > 0).sum()) >= 1
        assert int(new.sum()) <= 5


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip


def take_step(model, optimizer, sparsifier, step):
    images, labels = batch(step)
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    sparsifier.before_step(optimizer)
    optimizer.step()
    sparsifier.after_step(optimizer)


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
}
SCHEDULE = UpdateSchedule(2, 0, 20)
STRUCTURED = {
    "RigL 2:4": RigL(0.5, Uniform(), SCHEDULE, 0.4, structure=NM()),
    "SET 1:4": SET(0.75, Uniform(), SCHEDULE, 0.4, structure=NM(1, 4)),
    "SNFS blocks": SNFS(0.8, Uniform(), SCHEDULE, 0.4, structure=Blocks((4, 4))),
    "RigL blocks": RigL(0.8, Uniform(), SCHEDULE, 0.4, structure=Blocks((2, 8))),
    "SRigL": RigL(0.9, ErdosRenyi(), SCHEDULE, 0.4, structure=ConstantFanIn()),
    "SET constant fan-in": SET(0.9, ErdosRenyi(), SCHEDULE, 0.4, structure=ConstantFanIn(ablation=False)),
    "Static 2:4": Static(0.5, Uniform(), NM()),
}


def check(structure, mask, is_last):
    if mask.all():
        return
    if isinstance(structure, NM):
        assert (groups(mask, structure.m) == structure.n).all()
    elif isinstance(structure, Blocks):
        assert whole_blocks(mask, *structure.shape)
    else:
        found = fan_ins(mask)
        assert len(found[found > 0].unique()) == 1
        assert (found > 0).all() or (structure.ablation and not is_last)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", STRUCTURED)
def test_the_structure_holds_at_every_step_of_a_training(name, optimizer):
    model, algorithm = network(), STRUCTURED[name]
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    sparsifier = Sparsifier(select_parameters(model), algorithm, total_steps=24)
    shapes = {n: p.shape for n, p in sparsifier.parameters.items()}
    announced = active_counts(shapes, algorithm.layer_sparsities(shapes, 0))
    assert sparsifier.n_active == announced
    first = {n: m.clone() for n, m in sparsifier.masks.items()}
    for step in range(24):
        take_step(model, optimizer, sparsifier, step)
        for n, mask in sparsifier.masks.items():
            check(algorithm.structure, mask, n == "8.weight")
            assert not sparsifier.parameters[n][~mask].any()
            short = len(mask) if isinstance(algorithm.structure, ConstantFanIn) else 1
            assert announced[n] - short < int(mask.sum()) <= announced[n]
            assert sparsifier.n_active[n] == int(mask.sum())
    moved = any(not torch.equal(first[n], m) for n, m in sparsifier.masks.items())
    assert moved == (name != "Static 2:4")


def test_srigl_ablates_neurons_of_a_real_network():
    """Else the invariants above would hold of a method that never ablates."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    algorithm = RigL(0.97, schedule=SCHEDULE, drop_fraction=0.5, structure=ConstantFanIn(0.6))
    sparsifier = Sparsifier(select_parameters(model), algorithm, total_steps=24)
    for step in range(24):
        take_step(model, optimizer, sparsifier, step)
    ablated = {n: int((fan_ins(m) == 0).sum()) for n, m in sparsifier.masks.items()}
    assert ablated["6.weight"] > 0
    assert ablated["8.weight"] == 0  # the outputs


def test_two_of_four_is_the_layout_of_torchs_semi_structured_tensors():
    """torch's own packing loses nothing: what it unpacks is the masked weight."""
    conversions = pytest.importorskip("torch.sparse._semi_structured_conversions")
    weight = torch.randn(64, 128, generator=seeded())
    mask = NM().random_mask((64, 128), 64 * 64, seeded())
    for step in range(3):
        mask = NM().drop_and_grow(mask, weight.abs(), scores_for((64, 128), step), 1000)
        dense = (weight * mask).to(torch.bfloat16)
        packed, meta = conversions.sparse_semi_structured_from_dense_cutlass(dense)
        assert packed.shape == (64, 64)
        assert torch.equal(conversions.sparse_semi_structured_to_dense_cutlass(packed, meta), dense)
    free = (weight * masks.random_mask((64, 128), 64 * 64, seeded())).to(torch.bfloat16)
    packed, meta = conversions.sparse_semi_structured_from_dense_cutlass(free)
    assert not torch.equal(conversions.sparse_semi_structured_to_dense_cutlass(packed, meta), free)  # the witness


class TestSparsities:
    SHAPES = {"conv.weight": (8, 3, 3, 3), "wide.weight": (32, 64), "head.weight": (12, 32)}

    def test_n_of_m_fixes_the_sparsity_of_sparse_layers(self):
        assert RigL(0.5, Uniform(), structure=NM()).layer_sparsities(self.SHAPES, 0) == {
            "conv.weight": 0.0, "wide.weight": 0.5, "head.weight": 0.5,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("algorithm", "message"),
        [
            (RigL(0.9, Uniform(), structure=NM()), r"sparsity 0\.5 in every sparse layer for NM\(n=2, m=4\), got 0\.9 "
             r"in 'wide\.weight'\. Set `sparsity` of the algorithm to 0\.5, .*to Uniform"),
            (RigL(0.5, structure=NM()), r"got 0\.\d+ in 'conv.weight'\. Set .*Uniform"),
            (Static(0.5, EVERYWHERE, NM()), r"inputs of 'conv\.weight' to be a multiple of m=4 .*, got 3 of shape "
             r"\(8, 3, 3, 3\)\. Add the layer to `dense` of the distribution, or to `exclude` of"),
            (Static(0.5, Uniform(), Blocks((8, 8))), r"'head\.weight' to be multiples of \(8, 8\).*got shape \(12, 32\)"
             r"\. Add the layer .*`exclude` of SparseTrainingCallback, or set `shape` of Blocks"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused_before_training(self, algorithm, message):
        with pytest.raises(ValueError, match=f"Expected .*{message}"):
            layer_table(algorithm.resolve(100), self.SHAPES)
        with pytest.raises(ValueError, match=message):
            algorithm.resolve(100).initial_masks(self.SHAPES, lambda name: seeded())

    @pytest.mark.parametrize(
        ("structure", "setting"),
        [
            (lambda: NM(4, 4), "`n` and `m` of NM"),
            (lambda: NM(0, 4), "`n` and `m` of NM"),
            (lambda: NM(2.0, 4), "`n` and `m` of NM"),
            (lambda: NM(True, 4), "`n` and `m` of NM"),
            (lambda: TransposableNM(2, 4.0), "`n` and `m` of TransposableNM"),
            (lambda: Blocks((0, 4)), "`shape` of Blocks"),
            (lambda: Blocks((2.0, 4)), "`shape` of Blocks"),
            (lambda: Blocks(("a", 4)), "`shape` of Blocks"),
            (lambda: Blocks({2, 4}), "`shape` of Blocks"),
            (lambda: ConstantFanIn(1.5), "`min_salient` of ConstantFanIn"),
        ],
    )
    def test_a_wrong_setting_is_refused_at_once(self, structure, setting):
        with pytest.raises(ValueError, match=f"Expected .*, got .*Set {setting}"):
            structure()

    def test_the_dense_layer_needs_no_structure(self):
        algorithm = Static(0.5, Uniform(dense=("head",)), Blocks((16, 16)))
        first = algorithm.initial_masks(self.SHAPES, lambda name: seeded())
        assert first["conv.weight"].all()
        assert first["head.weight"].all()
        assert whole_blocks(first["wide.weight"], 16, 16)

    @pytest.mark.parametrize("sparsity", [0.3, 0.55, 0.9])
    def test_the_total_of_blocks_is_exact_to_less_than_a_block(self, sparsity):
        shapes = {"a": (32, 64), "b": (16, 32, 3, 3), "c": (8, 16)}
        algorithm = Static(sparsity, ErdosRenyi(), Blocks((4, 4)))
        counts = active_counts(shapes, algorithm.layer_sparsities(shapes, 0))
        total = sum(torch.Size(shape).numel() for shape in shapes.values())
        assert abs(sum(counts.values()) - (1 - sparsity) * total) < 16
        masks_of = algorithm.initial_masks(shapes, lambda name: seeded())
        assert {n: int(m.sum()) for n, m in masks_of.items()} == counts

    def test_table_and_planned_flops_are_those_of_the_masks(self):
        shapes = {"a": (10, 50), "b": (8, 10)}
        algorithm = RigL(0.77, EVERYWHERE, structure=ConstantFanIn()).resolve(100)
        # 11.5 and 2.3 connections a neuron: 12 (the half rounds up) and 2.
        assert active_counts(shapes, algorithm.layer_sparsities(shapes, 0)) == {"a": 120, "b": 16}
        table = layer_table(algorithm, shapes)
        assert table.splitlines()[0].startswith("RigL(sparsity=0.77")
        assert [line.split()[3] for line in table.splitlines()[4:6]] == ["120", "16"]
        flops = planned_inference_flops(algorithm, shapes, {"a": 1000, "b": 160})
        assert flops == pytest.approx((1000 * 120 / 500 + 160 * 16 / 80) / 1160)


@pytest.mark.parametrize("structure", [NM(), Blocks(), ConstantFanIn()])
def test_an_update_of_two_million_connections_takes_well_under_a_second(structure):
    shape = (512, 512, 3, 3)
    n_active = active_counts({"a": shape}, structure.layer_sparsities({"a": shape}, {"a": 0.5}))["a"]
    mask = structure.random_mask(shape, n_active, seeded())
    drop, grow = scores_for(shape, 0), scores_for(shape, 1)
    budget = n_active if isinstance(structure, ConstantFanIn) else None
    start = time.process_time()
    structure.drop_and_grow(mask, drop, grow, n_active // 3, budget)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("structure", [NM(), Blocks(), ConstantFanIn()])
@pytest.mark.parametrize("tied", [False, True])
def test_memory_format_does_not_matter(structure, tied):
    shape = (16, 8, 3, 3)
    n_active = active_counts({"a": shape}, structure.layer_sparsities({"a": shape}, {"a": 0.5}))["a"]
    mask = structure.random_mask(shape, n_active, seeded())
    tensors = mask, scores_for(shape, 0, tied), scores_for(shape, 1, tied)
    budget = n_active if isinstance(structure, ConstantFanIn) else None
    last = [tensor.to(memory_format=torch.channels_last) for tensor in tensors]
    plain = structure.drop_and_grow(*tensors, n_active // 3, budget)
    assert torch.equal(structure.drop_and_grow(*last, n_active // 3, budget), plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("structure", [NM(), Blocks(), ConstantFanIn()])
@pytest.mark.parametrize("tied", [False, True])
def test_devices_agree(structure, tied):
    shape = (64, 128)
    n_active = active_counts({"a": shape}, structure.layer_sparsities({"a": shape}, {"a": 0.5}))["a"]
    mask = structure.random_mask(shape, n_active, seeded())
    tensors = mask, scores_for(shape, 0, tied), scores_for(shape, 1, tied)
    budget = n_active if isinstance(structure, ConstantFanIn) else None
    plain = structure.drop_and_grow(*tensors, n_active // 3, budget)
    there = structure.drop_and_grow(*(tensor.cuda() for tensor in tensors), n_active // 3, budget)
    assert torch.equal(there.cpu(), plain)
    if isinstance(structure, NM):
        dense = (torch.randn(shape) * plain).half().cuda()
        assert torch.equal(torch.sparse.to_sparse_semi_structured(dense).to_dense(), dense)
