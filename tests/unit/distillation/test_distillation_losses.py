"""Distillation losses by hand, against NumPy, and what they refuse."""

import math
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import distillation, losses
from erel_jax.errors import ConfigError

RNG = np.random.default_rng(0)
QUARTER = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def run(loss, *arguments, **options):
    """The loss of arrays, compiled quickly."""
    compiled = jax.jit(partial(loss, **options), compiler_options={"xla_backend_optimization_level": 0})
    return float(compiled(*arguments))


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(target, logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -np.mean(np.sum(target * log_probs, axis=1))


def test_feature_loss_by_hand():
    student, teacher = jnp.array([[3.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 0.0], [5.0, 0.0]])
    # Row 0 agrees in direction; row 1 is at a right angle: squared distance 2 over 2 dimensions.
    np.testing.assert_allclose(run(distillation.feature_loss, student, teacher), (0 + 1) / 2, rtol=1e-6)


def test_feature_loss_with_a_projection_against_numpy():
    student, teacher, projection = floats(5, 3), floats(5, 7), floats(3, 7)
    expected = np.mean((unit(student @ projection) - unit(teacher)) ** 2)
    found = run(distillation.feature_loss, student, teacher, projection=projection)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    cosines = np.sum(unit(student @ projection) * unit(teacher), axis=1)
    np.testing.assert_allclose(found, 2 * (1 - cosines.mean()) / 7, rtol=1e-5)


def test_affinity_by_hand():
    """The teacher cannot tell the items apart, the student has cosine 1 with its own and 0 with the other."""
    blind = jnp.ones((2, 3))
    scale = jnp.float32(math.log(2.0))
    found = run(distillation.affinity_loss, jnp.eye(2), jnp.eye(2), blind, blind, scale, scale)
    expected = -0.5 * (math.log(math.e**2 / (math.e**2 + 1)) + math.log(1 / (math.e**2 + 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_affinity_against_numpy_and_its_least_value():
    u, v, theirs = floats(6, 4), floats(6, 4), (floats(6, 5), floats(6, 5))
    logits, targets = 3.0 * unit(u) @ unit(v).T, 8.0 * unit(theirs[0]) @ unit(theirs[1]).T
    expected = (cross_entropy(softmax(targets), logits) + cross_entropy(softmax(targets.T), logits.T)) / 2
    scales = jnp.float32(math.log(3.0)), jnp.float32(math.log(8.0))
    np.testing.assert_allclose(run(distillation.affinity_loss, u, v, *theirs, *scales), expected, rtol=1e-6)
    entropy = (cross_entropy(softmax(targets), targets) + cross_entropy(softmax(targets.T), targets.T)) / 2
    agreed = jax.jit(jax.value_and_grad(distillation.affinity_loss))(*theirs, *theirs, scales[1], scales[1])
    np.testing.assert_allclose(agreed[0], entropy, rtol=1e-6)
    np.testing.assert_allclose(agreed[1], 0, atol=1e-6)


def test_affinity_with_a_certain_teacher_is_info_nce():
    u, v, teacher = floats(5, 4), floats(5, 4), np.eye(5, dtype=np.float32)
    scale = jnp.float32(1.0)
    found = run(distillation.affinity_loss, u, v, teacher, teacher, scale, jnp.float32(losses.LOG_SCALE_LIMIT))
    np.testing.assert_allclose(found, run(losses.symmetric_info_nce, u, v, scale), rtol=1e-6)


def test_interactive_contrast_against_numpy_and_with_groups():
    u, v, teacher_u, teacher_v = (floats(6, 4) for _ in range(4))
    scale, group = jnp.float32(math.log(5.0)), np.array([0, 1, 0, 2, 3, 3], np.int32)
    left_out = (group[:, None] == group[None]) & ~np.eye(6, dtype=bool)
    for ids, hidden in ((None, np.zeros((6, 6), bool)), (group, left_out)):
        ways = [5.0 * unit(u) @ unit(teacher_v).T, 5.0 * unit(v) @ unit(teacher_u).T]
        expected = np.mean([cross_entropy(np.eye(6), np.where(hidden, -1e9, way)) for way in ways])
        found = run(distillation.interactive_contrastive_loss, u, v, teacher_u, teacher_v, scale, group=ids)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_interactive_contrast_by_hand():
    """Cosine 1 with the own pair's teacher and 0 with the other's, factor log 3: each row gives its pair 3/4."""
    eye = jnp.eye(2)
    found = run(distillation.interactive_contrastive_loss, eye, eye, eye, eye, jnp.float32(math.log(math.log(3.0))))
    np.testing.assert_allclose(found, math.log(4 / 3), rtol=1e-6)


def test_relational_distance_by_hand():
    """A right-angled corner against three points on a line, in units of the mean distance."""
    student = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # distances √2, √2, 2
    teacher = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # all √2
    mean = (2 * math.sqrt(2) + 2) / 3
    expected = (2 * (math.sqrt(2) / mean - 1) ** 2 / 2 + (2 / mean - 1) ** 2 / 2) / 3
    np.testing.assert_allclose(run(distillation.relational_distance_loss, student, teacher), expected, rtol=1e-5)


def test_relational_distance_against_numpy_beyond_the_bend():
    student, teacher = floats(7, 4), floats(7, 3)
    student[1:] = student[0] + 0.01 * floats(6, 4)
    student[-1] = -student[0]
    ours, theirs = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (unit(student), unit(teacher)))
    pairs = ~np.eye(7, dtype=bool)
    x = np.abs(ours / ours[pairs].mean() - theirs / theirs[pairs].mean())[pairs]
    assert (x > 1).any() and (x < 1).any()
    expected = np.mean(np.where(x <= 1, x * x / 2, x - 0.5))
    np.testing.assert_allclose(run(distillation.relational_distance_loss, student, teacher), expected, rtol=2e-5)


def test_relational_angle_by_hand():
    """Three corners of a square (angles 90°, 45°, 45°) against an even triangle (60° each)."""
    turn = 2 * math.pi / 3
    triangle = jnp.array([[math.cos(i * turn), math.sin(i * turn)] for i in range(3)])
    expected = (0.5**2 / 2 + 2 * (math.sqrt(0.5) - 0.5) ** 2 / 2) / 3
    np.testing.assert_allclose(run(distillation.relational_angle_loss, QUARTER[:3], triangle), expected, rtol=1e-5)


def test_relational_angle_against_numpy():
    student, teacher = floats(6, 4), floats(6, 3)

    def cosine(x, i, j, k):
        one, other = x[i] - x[j], x[k] - x[j]
        return one @ other / (np.linalg.norm(one) * np.linalg.norm(other))

    triples = [(i, j, k) for i in range(6) for j in range(6) for k in range(6) if len({i, j, k}) == 3]
    apart = [abs(cosine(unit(student), *t) - cosine(unit(teacher), *t)) for t in triples]
    assert max(apart) > 1
    expected = np.mean([x * x / 2 if x <= 1 else x - 0.5 for x in apart])
    np.testing.assert_allclose(run(distillation.relational_angle_loss, student, teacher), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [distillation.relational_distance_loss, distillation.relational_angle_loss])
def test_relations_do_not_see_turned_or_padded_spaces(loss):
    student = floats(8, 4)
    turned = np.linalg.qr(RNG.normal(size=(6, 6)))[0][:4].astype(np.float32)
    assert run(loss, student, 3.0 * student @ turned) < 1e-10
    assert run(loss, student, floats(8, 6)) > 1e-3


def test_logit_loss_by_hand_and_against_numpy():
    student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    np.testing.assert_allclose(run(distillation.logit_loss, student, teacher), expected, rtol=1e-6)
    student, teacher = floats(4, 6), floats(4, 6)
    p, q = softmax(teacher.astype(np.float64) / 3), softmax(student.astype(np.float64) / 3)
    expected = 9 * np.mean(np.sum(p * np.log(p / q), axis=1))
    np.testing.assert_allclose(run(distillation.logit_loss, student, teacher, temperature=3.0), expected, rtol=1e-5)
    assert abs(run(distillation.logit_loss, teacher, teacher + 4, temperature=2.0)) < 1e-6


def test_listwise_by_hand_and_with_short_lists():
    scores = jnp.array([[math.log(3.0), 0.0, 7.0], [5.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    teacher = jnp.array([[0.0, math.log(3.0), 9.0], [1.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    mask = jnp.array([[True, True, False], [True, False, False], [False, False, False]])
    # One list counts: the target is (1/4, 3/4), the student says (3/4, 1/4).
    expected = -(0.25 * math.log(0.75) + 0.75 * math.log(0.25))
    found = run(distillation.listwise_distillation_loss, scores, teacher, mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert run(distillation.listwise_distillation_loss, scores, teacher, mask=jnp.zeros((3, 3), bool)) == 0.0


def test_listwise_against_numpy_with_a_temperature():
    scores, teacher = floats(5, 4), floats(5, 4)
    expected = cross_entropy(softmax(teacher.astype(np.float64) / 0.5), scores.astype(np.float64))
    found = run(distillation.listwise_distillation_loss, scores, teacher, temperature=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_reinforced_against_numpy_averages_after_softmax():
    u, v = floats(5, 4), floats(5, 4)
    teachers = [(floats(5, 3), floats(5, 3), 20.0), (floats(5, 6), floats(5, 6), 2.0)]
    logits = 4.0 * unit(u) @ unit(v).T
    theirs = [scale * unit(a) @ unit(b).T for a, b, scale in teachers]
    one = cross_entropy(np.mean([softmax(x) for x in theirs], axis=0), logits)
    other = cross_entropy(np.mean([softmax(x.T) for x in theirs], axis=0), logits.T)
    contrast = (cross_entropy(np.eye(5), logits) + cross_entropy(np.eye(5), logits.T)) / 2
    a, b, scales = zip(*teachers, strict=True)
    given = (u, v, a, b, jnp.float32(math.log(4.0)), tuple(jnp.float32(math.log(s)) for s in scales))
    for share in (0.0, 0.25, 1.0):
        expected = (1 - share) * contrast + share * (one + other) / 2
        found = run(distillation.reinforced_loss, *given, share=share)
        np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_reinforced_with_one_teacher_alone_is_affinity():
    u, v, teacher_u, teacher_v = (floats(5, 4) for _ in range(4))
    scales = jnp.float32(1.0), jnp.float32(2.0)
    found = run(distillation.reinforced_loss, u, v, [teacher_u], [teacher_v], scales[0], [scales[1]], share=1.0)
    np.testing.assert_allclose(found, run(distillation.affinity_loss, u, v, teacher_u, teacher_v, *scales), rtol=1e-6)


ROWS, WIDER, SHORTER = jnp.ones((4, 3)), jnp.ones((4, 5)), jnp.ones((3, 3))
ZERO = jnp.float32(0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distillation.feature_loss(ROWS, WIDER), r"width 3 and the teacher 5; project"),
        (lambda: distillation.feature_loss(ROWS, SHORTER), r"4 rows and the teacher 3"),
        (
            lambda: distillation.feature_loss(ROWS, WIDER, projection=jnp.ones((5, 3))),
            r"\[5, 3\], expected float\[3, 5\]",
        ),
        (lambda: distillation.feature_loss(ROWS, ROWS.astype(jnp.int32)), r"teacher are int32"),
        (lambda: distillation.feature_loss(ROWS[:0], ROWS[:0]), r"at least one row"),
        (lambda: distillation.affinity_loss(ROWS, SHORTER, ROWS, ROWS, ZERO, ZERO), r"\(4, 3\) and items \(3, 3\)"),
        (lambda: distillation.affinity_loss(ROWS, ROWS, SHORTER, SHORTER, ZERO, ZERO), r"4 rows and the teacher 3"),
        (lambda: distillation.affinity_loss(ROWS, ROWS, ROWS, ROWS, ZERO, jnp.zeros(2)), r"log_scale has shape \(2,\)"),
        (
            lambda: distillation.interactive_contrastive_loss(ROWS, ROWS, WIDER, WIDER, ZERO),
            r"width 3 and the teacher 5",
        ),
        (lambda: distillation.relational_distance_loss(ROWS[:1], ROWS[:1]), r"1 rows, expected at least 2"),
        (lambda: distillation.relational_angle_loss(ROWS[:2], ROWS[:2]), r"2 rows, expected at least 3"),
        (lambda: distillation.logit_loss(ROWS, WIDER), r"scores \(4, 3\), teacher scores \(4, 5\)"),
        (lambda: distillation.logit_loss(ROWS, ROWS, temperature=0.0), r"temperature is 0.0"),
        (lambda: distillation.listwise_distillation_loss(ROWS, ROWS, temperature=math.nan), r"temperature is nan"),
        (lambda: distillation.listwise_distillation_loss(ROWS, ROWS, mask=ROWS), r"mask is float32, expected bool"),
        (lambda: distillation.reinforced_loss(ROWS, ROWS, [], [], ZERO, []), r"queries of 0 teachers"),
        (
            lambda: distillation.reinforced_loss(ROWS, ROWS, *cast(Any, (ROWS, ROWS, ZERO, 3.0))),
            r"pass sequences also for one",
        ),
        (lambda: distillation.reinforced_loss(ROWS, ROWS, [ROWS], [ROWS], ZERO, [ZERO, ZERO]), r"log scales of 2"),
        (lambda: distillation.reinforced_loss(ROWS, ROWS, [ROWS], [ROWS], ZERO, [ZERO], share=1.5), r"share is 1.5"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_nan_in_a_list_that_does_not_count_has_no_slope():
    scores = jnp.array([[jnp.nan, 0.1], [0.2, 0.3]])
    mask = jnp.array([[True, False], [True, True]])
    loss = jax.value_and_grad(lambda s: distillation.listwise_distillation_loss(s, jnp.eye(2), mask=mask))
    assert all(np.isfinite(part).all() for part in loss(scores))
