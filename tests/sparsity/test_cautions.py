"""What is said of a schedule without updates, of updates that were left out, and of what is not finite."""

import warnings

import pytest
import torch
from torch import nn

from rigl_lightning.base.errors import SparseTrainingWarning
from rigl_lightning.compute import SparseCompute
from rigl_lightning.reports.layer_table import layer_table
from rigl_lightning.sparsity.algorithms import (
    DNW,
    DSR,
    SET,
    SNFS,
    SNIP,
    Dense,
    DropGrow,
    GradualMagnitudePruning,
    GraNet,
    GraSP,
    Group,
    LotteryTicket,
    RigL,
    Static,
)
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import gradient_magnitude
from rigl_lightning.sparsity.sparsifier import Sparsifier
from tests.helpers.small_training import backward, batch, small_network, sparsify, train

EVERY = UpdateSchedule(1, 0, 9)
EVERY_SECOND = UpdateSchedule(2, 0, 9)


class TestSchedules:
    @pytest.mark.parametrize(
        ("algorithm", "total", "words"),
        [
            (RigL(schedule=UpdateSchedule(10, 0, 0)), 100, "RigL never updates its masks: .*begin=0, end=0"),
            (SET(schedule=UpdateSchedule(10, 50, 50)), None, "SET never updates its masks"),
            (RigL(schedule=UpdateSchedule(10, 200, 300)), 100, "begin=200, end=300 of a training of 100 steps"),
            (RigL(schedule=UpdateSchedule(end=0.001)), 100, "never updates"),
            (DSR(0.99), 1000, "DSR replaces 100% of the active connections at every update. Lower its target_fraction"),
        ],
    )
    def test_masks_that_will_not_change_or_change_whole_are_said_with_a_warning(self, algorithm, total, words):
        with pytest.warns(UserWarning, match=words):
            sparsify(small_network(), algorithm, total_steps=total)

    @pytest.mark.parametrize(
        "algorithm",
        [
            RigL(),
            RigL(schedule=UpdateSchedule(100, 0, 5)),
            DSR(0.9),
            RigL(schedule=UpdateSchedule(10, end=1.0)),
            GradualMagnitudePruning(schedule=UpdateSchedule(100, 5, 5)),
            GraNet(0.9, 0.5, schedule=UpdateSchedule(1000, 0, 60), ramp_end=50),
            SNIP(),
            Static(),
            Dense(),
        ],
    )
    def test_nothing_is_said_of_others(self, algorithm):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparsify(small_network(), algorithm, total_steps=100)

    @pytest.mark.parametrize(
        ("algorithm", "setting"),
        [
            (SNFS(schedule=UpdateSchedule(100, end=1)), "`end` of `schedule` to 1.0"),
            (RigL(schedule=UpdateSchedule(1, end=1)), "`end` of `schedule` to 1.0"),
            (DNW(schedule=UpdateSchedule(1, end=1)), "`end` of `renewal` to 1.0"),
            (GradualMagnitudePruning(schedule=UpdateSchedule(1, 0.5, end=1)), "`end` of `ramp` to 1.0"),
            (Group({"0": Static(0.5), "*": RigL(schedule=UpdateSchedule(end=1))}), "`end` of `schedule` to 1.0"),
        ],
    )
    def test_an_end_at_step_one_is_refused(self, algorithm, setting):
        for total in (1000, None):
            with pytest.raises(ValueError, match=f"1.0 for the whole training, .*, got 1, which is step 1.*{setting}"):
                sparsify(small_network(), algorithm, total_steps=total)

    def test_a_fraction_that_is_step_one_and_a_training_of_one_step_are_not(self):
        assert len(sparsify(small_network(), RigL(schedule=UpdateSchedule(end=0.01)), total_steps=100).masks) == 2
        assert len(sparsify(small_network(), RigL(schedule=UpdateSchedule(end=1)), total_steps=1).masks) == 2

    def test_a_run_that_began_with_it_is_resumed(self):
        state = sparsify(small_network(), RigL(schedule=UpdateSchedule(100, end=2)), total_steps=1000).state_dict()
        state["algorithm"] = state["algorithm"].replace("end=2", "end=1")
        resumed = sparsify(small_network(), RigL(schedule=UpdateSchedule(100, end=1)), state=state)
        assert list(resumed.algorithm.update_steps()) == [0]

    def test_nothing_is_said_when_a_run_is_resumed(self):
        algorithm = RigL(schedule=UpdateSchedule(10, 0, 0))
        with pytest.warns(UserWarning, match="never updates"):
            state = sparsify(small_network(), algorithm).state_dict()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparsify(small_network(), algorithm, state=state)

    def test_a_ticket_says_it_of_its_algorithm(self, tmp_path):
        torch.save(sparsify(small_network(), Static(0.7)).state_dict(), tmp_path / "ticket.pt")
        algorithm = LotteryTicket(tmp_path / "ticket.pt", RigL(0.7, schedule=UpdateSchedule(10, 0, 0)))
        with pytest.warns(UserWarning, match="LotteryTicket never updates"):
            sparsify(small_network(), algorithm, total_steps=100)

    def test_a_group_says_it_of_its_member(self):
        algorithm = Group({"0": Static(0.5), "*": SET(0.7, schedule=UpdateSchedule(10, 200, 300))})
        with pytest.warns(UserWarning, match="SET never updates its masks: .*begin=200, end=300 of a training of 100"):
            sparsify(small_network(), algorithm, total_steps=100)

    @pytest.mark.parametrize(
        ("schedule", "hint"),
        [
            (UpdateSchedule(100, end=1), "(few: the end is step 1; 1.0 is the whole training)"),
            (UpdateSchedule(1, end=3), "at steps 0, 1, 2"),  # no interval below 1 would make more
            (UpdateSchedule(100, end=200), "(few; for more, set an interval below 100 steps)"),
        ],
    )
    def test_the_table_advises_what_can_be_set(self, schedule, hint):
        line = layer_table(RigL(schedule=schedule), {"fc.weight": (16, 16)}, 1000).splitlines()[1]
        assert line.endswith(hint)


class TestUpdatesThatAreLeftOut:
    @staticmethod
    def run_with_a_bad_first_batch(algorithm, skip=False):
        model = small_network()
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        sparsifier = sparsify(model, algorithm)
        backward(model, 0, sparsifier)
        model[4].weight.grad[0, 0] = torch.nan
        sparsifier.before_step(optimizer)
        if not skip:  # as a GradScaler does
            optimizer.step()
            sparsifier.after_step(optimizer)
        return sparsifier

    @pytest.mark.parametrize("algorithm", [SNIP(0.7), GraSP(0.7)])
    def test_that_it_was_the_only_one_is_said(self, algorithm):
        name = type(algorithm).__name__
        words = rf"{name} left out its mask update at step 0: .*layer '4\.weight' .*\(1 such layers\).*the last one"
        with pytest.warns(UserWarning, match=words):
            sparsifier = self.run_with_a_bad_first_batch(algorithm)
        assert sparsifier.total_density() == 1

    def test_that_others_come_is_said(self):
        with pytest.warns(UserWarning, match="RigL left out .*step 0.*next is tried as planned"):
            self.run_with_a_bad_first_batch(RigL(0.7, schedule=EVERY))

    def test_a_gradient_of_a_dense_weight_leaves_it_out_too(self):
        model = small_network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        sparsifier = sparsify(model, RigL(0.7, schedule=EVERY))
        backward(model, 0, sparsifier)
        model[0].bias.grad[0] = torch.nan
        sparsifier.before_step(optimizer)
        assert not sparsifier.has_dropped_gradients
        assert sparsifier.last_update is None
        with pytest.warns(UserWarning, match="RigL left out .* step 0: the gradient of a weight that is not sparse is"):
            sparsifier.after_step(optimizer)

    def test_that_of_an_embedding_may_have_a_sparse_layout(self):
        model = torch.nn.Sequential(torch.nn.Embedding(5, 8, sparse=True), torch.nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        sparsifier = sparsify(model, RigL(0.7, schedule=EVERY))
        model(torch.tensor([1, 3])).sum().backward()
        model[0].weight.grad *= torch.nan
        sparsifier.before_step(optimizer)
        assert not sparsifier.has_dropped_gradients

    @pytest.mark.parametrize("bad", [torch.inf, -torch.inf])
    def test_an_update_after_the_step_does_not_grow_where_a_gradient_is_infinite(self, bad):
        model = torch.nn.Linear(8, 8)
        sparsifier = sparsify(model, SET(0.5, schedule=EVERY, grow_score=gradient_magnitude))
        before = sparsifier.masks["weight"].clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for gradient in (bad, 1.0):
            model.weight.grad = torch.ones(8, 8).where(before, gradient)
            sparsifier.before_step(optimizer)
            optimizer.step()
            if gradient == bad:
                with pytest.warns(UserWarning, match="SET left out .*step 0: .*layer 'weight'.*next is tried"):
                    sparsifier.after_step(optimizer)
                assert torch.equal(sparsifier.masks["weight"], before)
            else:
                sparsifier.after_step(optimizer)
        assert sparsifier.last_update.step == 1

    def test_a_skipped_step_leaves_nothing_out(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparsifier = self.run_with_a_bad_first_batch(SNIP(0.7), skip=True)
            model = small_network()
            sparsifier = sparsify(model, SNIP(0.7))
            train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, [0])
        assert sparsifier.last_update.step == 0


class TestNaN:
    def update(self, algorithm, weight_value=1.0, gradient_value=1.0):
        weight = nn.Parameter(torch.rand(8, 8))
        sparsifier = Sparsifier({"fc.weight": weight}, algorithm)
        sparsifier.step = 3
        with torch.no_grad():
            weight[sparsifier.masks["fc.weight"]] *= weight_value
        weight.grad = torch.ones_like(weight)
        weight.grad[~sparsifier.masks["fc.weight"]] = gradient_value
        optimizer = torch.optim.SGD([weight], lr=0.0)
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)

    @pytest.mark.parametrize("cls", [SET, RigL, SNFS])
    def test_weights(self, cls):
        algorithm = cls(0.5, Uniform(first_layer_dense=False), EVERY)
        with pytest.raises(ValueError, match=r"mask update of step 3, but the weights of layer 'fc\.weight' are NaN"):
            self.update(algorithm, weight_value=torch.nan)

    def test_gradients_that_an_update_after_the_step_reads(self):
        algorithm = SET(0.5, Uniform(first_layer_dense=False), EVERY, grow_score=lambda c: c.grad.abs())
        with pytest.raises(ValueError, match=r"step 3, but the gradients of layer 'fc\.weight' are NaN"):
            self.update(algorithm, gradient_value=torch.nan)

    @pytest.mark.filterwarnings("ignore:Nobody can tell")
    @pytest.mark.parametrize(
        "within", [lambda own, _: own, lambda own, _: Group({"*": own}), lambda own, ticket: LotteryTicket(ticket, own)]
    )
    def test_a_score_of_ones_own(self, within, tmp_path):
        def mine(c):
            return c.weight / 0 - c.weight / 0

        torch.save({"fc.weight": torch.eye(8)}, tmp_path / "masks.pt")
        algorithm = DropGrow(0.5, Uniform(first_layer_dense=False), EVERY, grow_score=mine)
        algorithm = within(algorithm, tmp_path / "masks.pt")
        with pytest.raises(ValueError, match=r"`grow_score` .*mine gives NaN for layer 'fc\.weight'"):
            self.update(algorithm)

    def test_other_errors_are_left_as_they_are(self):
        def wrong(c):
            raise ValueError("mine alone")

        algorithm = DropGrow(0.5, Uniform(first_layer_dense=False), EVERY, grow_score=wrong)
        with pytest.raises(ValueError, match="mine alone"):
            self.update(algorithm)


class TestGrowthIntoDeadUnits:
    @staticmethod
    def first_update(eps=1e-5, norm=True, dead=True, cls=RigL, steps=1, stored=False, bias=False, silent=False):
        torch.manual_seed(0)
        norms = [nn.BatchNorm1d(8, eps)] if norm else []
        model = nn.Sequential(nn.Linear(16, 8, bias=bias), *norms, nn.ReLU(), nn.Linear(8, 4))
        if norm:
            nn.init.ones_(model[1].bias)  # else ReLU has no gradient where all outputs are zero
        if bias:
            nn.init.ones_(model[0].bias)
        if silent:  # no other unit has a gradient
            model[-1].weight.data[:, [0, 1, 2, 4, 5, 6, 7]] = 0
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        algorithm = cls(0.5, Uniform(first_layer_dense=False), EVERY, drop_fraction=0.3)
        sparsifier = Sparsifier({"0.weight": model[0].weight}, algorithm)
        mask = torch.ones(8, 16, dtype=torch.bool)
        mask[:, ::2] = False
        if dead:
            mask[3] = False
        sparsifier.network.start_from({"0.weight": mask})
        sparsifier.apply_masks()
        if stored:
            SparseCompute(model, sparsifier, "sparse", storage="connections").install()
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(32, 16)).square().mean().backward()
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
        return sparsifier.masks["0.weight"]

    @pytest.mark.parametrize("stored", [False, True], ids=["dense", "connections"])
    @pytest.mark.parametrize(("cls", "steps"), [(RigL, 1), (SET, 2)], ids=["by gradients", "at random"])
    def test_under_batch_norm_it_is_said_with_layer_and_factor(self, cls, steps, stored):
        words = (
            r"update at step 0 grows into 1 units of layer '0\.weight' that have no connection, and gradients \d\d+ "
        )
        with pytest.warns(UserWarning, match=words):
            mask = self.first_update(cls=cls, steps=steps, stored=stored)
        assert mask[3].any()

    @pytest.mark.parametrize(
        "settings", [{"eps": 1.0}, {"norm": False}, {"dead": False}], ids=["large eps", "no batch norm", "no dead unit"]
    )
    @pytest.mark.parametrize(("cls", "steps"), [(RigL, 1), (SET, 2)], ids=["by gradients", "at random"])
    def test_nothing_is_said_of_growth_without_danger(self, cls, steps, settings):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.first_update(cls=cls, steps=steps, **settings)

    def test_nothing_is_said_where_other_units_have_no_gradient(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self.first_update(norm=False, bias=True, silent=True)[3].any()

    def test_it_is_said_once_a_layer(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.first_update(cls=SET, steps=6)
        assert sum("grows into" in str(w.message) for w in caught) == 1


class TestDivergence:
    """What is said of a loss or gradient that is not finite, in a plain training loop."""

    @staticmethod
    def said(model, bad, steps=6, algorithm=None, sees_loss=True, skip=()):
        """Warnings of a training in which the loss of some steps is multiplied."""
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        sparsifier = sparsify(model, algorithm or Static(0.7))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(steps):
                images, labels = batch(step)
                model.zero_grad()
                loss = nn.functional.cross_entropy(model(images), labels) * bad.get(step, 1.0)
                if sees_loss:
                    sparsifier.before_backward(loss)
                loss.backward()
                sparsifier.before_step(optimizer)
                if step not in skip:
                    optimizer.step()
                    sparsifier.after_step(optimizer)
        return [str(w.message) for w in caught if issubclass(w.category, SparseTrainingWarning)]

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_a_loss_is_told_once_with_its_step(self, bad):
        told = [m for m in self.said(small_network(), {2: bad, 4: bad}) if m.startswith("The loss")]
        assert len(told) == 1
        assert told[0].startswith(f"The loss is {bad} at step 2 (2 optimizer steps completed). ")

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_of_several_losses_at_once_one_is_enough(self, bad):
        sparsifier = sparsify(small_network(), Static(0.7))
        sparsifier.note_loss(torch.tensor([1.0, 2.0], requires_grad=True))
        with pytest.warns(SparseTrainingWarning, match=f"The loss is {bad} at step 0"):
            sparsifier.note_loss(torch.tensor([1.0, bad, -torch.inf if bad == torch.inf else 2.0]))

    def test_gradients_are_told_once_with_step_and_layer_where_nobody_shows_the_loss(self):
        (told,) = self.said(small_network(), {3: torch.nan, 4: torch.nan}, sees_loss=False)
        assert told.startswith("The gradient of layer '0.weight' (2 such sparse layers) is not finite at step 3")

    def test_gradients_of_other_weights_are_told_without_a_layer(self):
        model = small_network()
        model[0].bias.register_hook(lambda grad: grad * torch.nan)
        (told,) = self.said(model, {}, steps=1)
        assert told.startswith("The gradient of a weight that is not sparse is not finite at step 0")

    def test_a_step_that_a_scaler_skips_is_no_divergence(self):
        assert self.said(small_network(), {1: torch.inf}, sees_loss=False, skip=[1]) == []
        # The step before an update, which looks at its own gradients.
        assert self.said(small_network(), {1: torch.inf}, 3, RigL(0.7, schedule=EVERY_SECOND), False, [1]) == []

    def test_an_update_that_is_left_out_has_named_the_layer_already(self):
        (told,) = self.said(small_network(), {0: torch.nan, 1: torch.nan}, 2, RigL(0.7, schedule=EVERY_SECOND), False)
        assert told.startswith("RigL left out its mask update at step 0")

    def test_finite_values_say_nothing(self):
        assert self.said(small_network(), {1: 1e30}) == []
