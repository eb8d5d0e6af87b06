import pytest

from diffusers_autonat.search.constraints import Constraint


def test_a_constraint_is_read_and_written():
    constraint = Constraint.parse(" class_consistency >= 0.92 ")
    assert constraint == Constraint("class_consistency", 0.92, True)
    assert Constraint.parse(str(constraint)) == constraint
    assert Constraint.parse("kernel_distance<=1e-3") == Constraint("kernel_distance", 1e-3, False)


@pytest.mark.parametrize(
    "text", ["", "class_consistency", "class_consistency>0.9", "x>=-1", "x>=0", "x>=1e999", "x<=1.1.1"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="is no constraint: write NAME>=BOUND"):
        Constraint.parse(text)


def test_what_misses_the_bound_counts_more():
    least, most = Constraint("share", 0.8, True), Constraint("cost", 2.0, False)
    assert least.violation({"share": 0.8}) == 0 == most.violation({"cost": 1.0})
    assert least.penalised(3.0, {"share": 0.9}) == 3.0
    assert least.violation({"share": 0.72}) == pytest.approx(0.1) == most.violation({"cost": 2.2})
    assert least.penalised(3.0, {"share": 0.792}) == pytest.approx(3.0 * 1.25)
    with pytest.raises(ValueError, match="the constraint is on share; the evaluation has cost"):
        least.violation({"cost": 1.0})
