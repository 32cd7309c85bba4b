import math

import pytest

from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule, constant, cosine, cubic, linear


class TestWindow:
    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [
            (UpdateSchedule(interval=10, begin=0, end=30), [0, 10, 20]),  # step 0 is in, the end is out
            (UpdateSchedule(interval=10, begin=0, end=31), [0, 10, 20, 30]),
            (UpdateSchedule(interval=10, begin=3, end=24), [3, 13, 23]),  # counted from begin
            (UpdateSchedule(interval=100, begin=0, end=30), [0]),
            (UpdateSchedule(interval=1, begin=2, end=5), [2, 3, 4]),
            (UpdateSchedule(interval=1, begin=5, end=5), []),
        ],
    )
    def test_updates_come_every_interval_from_begin_and_stop_before_the_end(self, schedule, expected):
        assert [step for step in range(50) if schedule.is_update(step)] == expected
        assert list(schedule.update_steps()) == expected

    def test_the_papers_defaults(self):
        schedule = UpdateSchedule().resolve(1000)
        assert list(schedule.update_steps()) == [0, 100, 200, 300, 400, 500, 600, 700]
        assert schedule.end == 750

    def test_progress_is_zero_at_begin_and_one_from_the_end_on(self):
        schedule = UpdateSchedule(interval=10, begin=20, end=60)
        assert [schedule.progress(step) for step in (0, 20, 30, 40, 59, 60, 1000)] == [0, 0, 0.25, 0.5, 39 / 40, 1, 1]

    @pytest.mark.parametrize("step", [0, 5, 9, 10, 11])
    def test_progress_of_an_empty_window_is_zero_before_it_and_one_after(self, step):
        assert UpdateSchedule(begin=10, end=10).progress(step) == float(step >= 10)


class TestFractions:
    def test_wrn_stops_at_75000_of_97656(self):
        assert UpdateSchedule(end=0.768).resolve(97_656).end == 75_000  # 0.768 * 97656 = 74999.8

    def test_resnet50_stops_at_25000_of_32000(self):
        assert UpdateSchedule(end=0.78125).resolve(32_000).end == 25_000

    def test_a_longer_training_stretches_fractions_and_leaves_steps(self):
        schedule = UpdateSchedule(interval=100, begin=0.1, end=0.75)
        assert (schedule.resolve(1_000).begin, schedule.resolve(1_000).end) == (100, 750)
        assert (schedule.resolve(5_000).begin, schedule.resolve(5_000).end) == (500, 3_750)
        assert schedule.resolve(5_000).interval == 100
        assert UpdateSchedule(begin=0, end=750).resolve(5_000).end == 750

    def test_one_is_a_step_and_one_point_zero_all_of_training(self):
        assert UpdateSchedule(end=1).resolve(100).end == 1
        assert UpdateSchedule(end=1.0).resolve(100).end == 100

    def test_resolved_once_it_does_not_move_again(self):
        resolved = UpdateSchedule(end=0.5).resolve(100)
        assert (type(resolved.begin), type(resolved.end)) == (int, int)
        with pytest.raises(ValueError, match="Expected a resolved schedule"):
            UpdateSchedule(end=0.5).is_update(0)
        assert resolved.resolve(200) == UpdateSchedule(end=50)
        assert resolved.resolve(None).end == 50

    @pytest.mark.parametrize("total_steps", [None, 0, -1])
    def test_fractions_of_an_unknown_length_are_refused(self, total_steps):
        with pytest.raises(ValueError, match="known number of training steps"):
            UpdateSchedule(end=0.75).resolve(total_steps)

    @pytest.mark.parametrize("use", [lambda s: s.is_update(0), lambda s: s.progress(0), lambda s: s.update_steps()])
    def test_an_unresolved_schedule_answers_nothing(self, use):
        with pytest.raises(ValueError, match="Call resolve"):
            use(UpdateSchedule(end=0.75))

    def test_a_begin_that_ends_up_after_the_end_is_refused(self):
        with pytest.raises(ValueError, match="`begin` before `end`"):
            UpdateSchedule(begin=0.5, end=40).resolve(100)


class TestErrors:
    @pytest.mark.parametrize("interval", [0, -5, 2.5, True])
    def test_an_interval_is_a_whole_positive_number(self, interval):
        with pytest.raises(ValueError, match=r"`interval` to be a whole number .*Set .*interval"):
            UpdateSchedule(interval=interval)

    def test_an_interval_that_is_accepted_works(self):
        try:
            schedule = UpdateSchedule(interval=10.0, end=30)
        except ValueError:
            return
        assert list(schedule.update_steps()) == [0, 10, 20]

    @pytest.mark.parametrize("point", [-1, -0.1, 1.5, math.nan, math.inf])
    @pytest.mark.parametrize("name", ["begin", "end"])
    def test_a_point_is_a_step_or_a_fraction(self, name, point):
        with pytest.raises(ValueError, match=rf"`{name}` to be a step .*Set .*{name}"):
            UpdateSchedule(**{name: point})

    @pytest.mark.parametrize(("begin", "end"), [(10, 5), (0.8, 0.5)])
    def test_begin_is_not_after_the_end(self, begin, end):
        with pytest.raises(ValueError, match="`begin` before `end`"):
            UpdateSchedule(begin=begin, end=end)

    @pytest.mark.parametrize("power", [0, -1, math.nan])
    def test_an_inverse_power_is_positive(self, power):
        with pytest.raises(ValueError, match="`power` above 0"):
            InversePower(power)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        # progress   0  1/4             1/2    3/4             1
        (cosine, [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0]),
        (constant, [1, 1, 1, 1, 1]),
        (linear, [1, 0.75, 0.5, 0.25, 0]),
        (InversePower(1), [1, 0.75, 0.5, 0.25, 0]),
        (InversePower(3), [1, 27 / 64, 1 / 8, 1 / 64, 0]),
        (lambda progress: 0.8 * (1 - cubic(progress)), [0, 0.4625, 0.7, 0.7875, 0.8]),
    ],
    ids=["cosine", "constant", "linear", "power 1", "power 3", "cubic"],
)
def test_curves_by_hand(decay, expected):
    assert [decay(p) for p in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(expected, abs=1e-12)


def test_the_pruning_ramp_ends_at_its_final_sparsity_exactly():
    assert cubic(1.0) == 0.0
    assert cubic(0.0) == 1.0
