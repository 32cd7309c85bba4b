import pytest
import torch

from rigl_lightning.sparsity.algorithms import SET, SNFS, DropGrow, Group, LotteryTicket, RigL, Static
from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule, constant, linear
from rigl_lightning.sparsity.scores import Connections, gradient_magnitude, saliency
from tests.helpers.small_training import flags, small_network, sparsify, train, written

SCHEDULE = UpdateSchedule(interval=10, begin=0, end=40)


def layer(mask="1111 ....", weight=(0.8, -0.1, 0.5, 0.3, 0, 0, 0, 0), **kwargs):
    return Connections(torch.tensor(weight), flags(mask), torch.Generator().manual_seed(0), **kwargs)


GRADIENT = torch.tensor([0.0, 0.2, -0.05, 0.35, 0.1, -0.4, 0.3, 0.5])


class TestDropFraction:
    @pytest.mark.parametrize(
        ("decay", "expected"),
        [
            (None, [0.4, 0.4 * (2 + 2**0.5) / 4, 0.2, 0.4 * (2 - 2**0.5) / 4, 0]),
            (constant, [0.4] * 5),
            (linear, [0.4, 0.3, 0.2, 0.1, 0]),
            (InversePower(3), [0.4, 0.4 * 27 / 64, 0.05, 0.4 / 64, 0]),
        ],
    )
    def test_follows_the_papers_formula(self, decay, expected):
        rigl = RigL(schedule=SCHEDULE, drop_fraction=0.4, **({"decay": decay} if decay else {}))
        assert [rigl.drop_fraction_at(t) for t in (0, 10, 20, 30, 40)] == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("drop_fraction", [-0.1, 1.1, 30, float("nan")])
    def test_is_refused_out_of_range(self, drop_fraction):
        with pytest.raises(ValueError, match=r"`drop_fraction` in \[0, 1\], got .*drop_fraction"):
            RigL(drop_fraction=drop_fraction)

    @pytest.mark.parametrize(("n_active", "fraction", "moved"), [(10, 0.3, 3), (10, 0.39, 3), (3, 0.3, 0), (1, 1.0, 1)])
    def test_the_number_of_moved_connections_is_truncated(self, n_active, fraction, moved):
        # Inactive gradients are larger than those of dropped connections, so that every drop becomes a move.
        mask = torch.arange(20) < n_active
        c = Connections(mask.float(), mask, dense_grad=(~mask).float() + 0.5)
        rigl = RigL(schedule=SCHEDULE, drop_fraction=fraction, decay=constant)
        new = rigl.update_masks({"a": c}, 0, {})["a"]
        assert int((mask & ~new).sum()) == moved
        assert int(new.sum()) == n_active


class TestMoves:
    # Dropped in the order 1, 3, 2, 0; see test_masks.py. Half of four connections move: 1 and 3 go.
    def test_rigl_grows_by_the_magnitude_of_the_gradient(self):
        rigl = RigL(schedule=SCHEDULE, drop_fraction=0.5)
        new = rigl.update_masks({"a": layer(dense_grad=GRADIENT)}, 0, {})["a"]
        assert written(new) == "1.1..1.1"  # .5 at 7, and |-.4| at 5; the signed gradient would take .35 at 3

    def test_snfs_grows_by_the_magnitude_of_the_average(self):
        average = torch.tensor([0, 0, 0, 0, -0.9, 0.1, 0.8, 0.2])
        snfs = SNFS(schedule=SCHEDULE, drop_fraction=0.5)
        assert written(snfs.update_masks({"a": layer(dense_grad_average=average)}, 0, {})["a"]) == "1.1.1.1."

    def test_set_grows_anywhere_but_at_survivors_with_equal_chance(self):
        generator = torch.Generator().manual_seed(1)
        algorithm = SET(schedule=SCHEDULE, drop_fraction=0.5)
        counts = torch.zeros(8)
        for _ in range(1500):
            c = Connections(layer().weight, layer().mask, generator)
            counts += algorithm.update_masks({"a": c}, 0, {})["a"]
        assert counts[[0, 2]].tolist() == [1500, 1500]
        # 2 of 6 candidates: binomial(1500, 1/3) has mean 500, standard deviation 18.
        assert (counts[[1, 3, 4, 5, 6, 7]] - 500).abs().max() < 80

    def test_a_layer_that_had_no_gradient_keeps_its_mask(self):
        used, unused = layer(dense_grad=GRADIENT), layer()
        new = RigL(schedule=SCHEDULE, drop_fraction=0.5).update_masks({"used": used, "unused": unused}, 0, {})
        assert new["unused"] is unused.mask
        assert not torch.equal(new["used"], used.mask)
        assert SNFS(schedule=SCHEDULE, drop_fraction=0.5).update_masks({"a": unused}, 0, {})["a"] is unused.mask

    def test_a_dense_layer_keeps_its_mask(self):
        c = Connections(torch.ones(4), torch.ones(4, dtype=torch.bool), dense_grad=torch.ones(4))
        assert RigL(schedule=SCHEDULE, drop_fraction=1.0).update_masks({"a": c}, 0, {})["a"] is c.mask

    def test_at_the_end_of_a_cosine_nothing_moves(self):
        c = layer(dense_grad=GRADIENT)
        assert RigL(schedule=SCHEDULE, drop_fraction=1.0).update_masks({"a": c}, 40, {})["a"] is c.mask


class TestWhatAStepNeeds:
    def test_the_dense_gradient_is_read_when_the_paper_says(self):
        steps = range(0, 50, 5)
        assert [t for t in steps if RigL(schedule=SCHEDULE).needs_dense_gradient(t)] == [0, 10, 20, 30]
        assert [t for t in steps if SET(schedule=SCHEDULE).needs_dense_gradient(t)] == []
        assert [t for t in steps if SNFS(schedule=SCHEDULE).needs_dense_gradient(t)] == list(steps)
        mine = SET(schedule=SCHEDULE, grow_score=lambda c: c.grad.abs())
        assert [t for t in steps if mine.needs_dense_gradient(t)] == [0, 10, 20, 30]

    def test_rigl_alone_updates_instead_of_a_gradient_step(self):
        assert [a.replaces_step for a in (RigL(), SET(), SNFS(), DropGrow())] == [True, False, False, False]

    def test_the_papers_defaults(self):
        rigl = RigL()
        assert (rigl.drop_fraction, rigl.schedule.interval, rigl.schedule.end) == (0.3, 100, 0.75)
        assert SNFS().grad_average_decay == 0.9

    @pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
    def test_an_average_that_never_moves_is_refused(self, beta):
        with pytest.raises(ValueError, match="grad_average_decay"):
            SNFS(grad_average_decay=beta)

    @pytest.mark.parametrize("sparsity", [1.2, -1, 1.0])
    def test_a_sparsity_out_of_range_is_refused_at_once(self, sparsity):
        with pytest.raises(ValueError, match="sparsity"):
            RigL(sparsity=sparsity)

    def test_resolve_places_the_window_and_nothing_else(self):
        resolved = RigL(sparsity=0.8).resolve(1000)
        assert (resolved.schedule.end, resolved.sparsity) == (750, 0.8)
        assert list(resolved.update_steps()) == list(range(0, 750, 100))


class TestScoresBesideAnAverage:
    """SNFS keeps an average of gradients; its scores may read the gradient of the step all the same."""

    EVERY_OTHER = UpdateSchedule(interval=2, end=6)

    def masks_of(self, algorithm):
        model = small_network()
        sparsifier = sparsify(model, algorithm, total_steps=6)
        train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(5))
        assert sparsifier.last_update.n_grown > 0
        return sparsifier.checksums()

    @pytest.mark.parametrize(
        "scores", [{"grow_score": gradient_magnitude}, {"drop_score": saliency}], ids=["grow", "drop"]
    )
    def test_they_are_those_of_the_step(self, scores, tmp_path):
        settings = {"sparsity": 0.7, "schedule": self.EVERY_OTHER, "drop_fraction": 0.5, **scores}
        snfs = SNFS(**settings)
        alone = self.masks_of(snfs)
        assert self.masks_of(Group({"*": snfs})) == alone
        if "grow_score" in scores:  # the average is not read
            assert self.masks_of(DropGrow(**settings)) == alone
        torch.save(sparsify(small_network(), Static(0.7)).state_dict(), tmp_path / "ticket.pt")
        assert self.masks_of(LotteryTicket(tmp_path / "ticket.pt", snfs)) == alone
