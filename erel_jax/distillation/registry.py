"""All distillation losses in one table, as `losses.LOSSES` holds the others; the contract tests run over it."""

from erel_jax.distillation.affinity import affinity_loss
from erel_jax.distillation.feature import feature_loss
from erel_jax.distillation.interactive import interactive_contrastive_loss
from erel_jax.distillation.listwise import listwise_distillation_loss
from erel_jax.distillation.logit import logit_loss
from erel_jax.distillation.reinforced import reinforced_loss
from erel_jax.distillation.relational import relational_angle_loss, relational_distance_loss
from erel_jax.losses.registry import Loss

_PAIRS = ("queries", "items", "teacher_queries", "teacher_items")
_ROWS = ("student", "teacher")
_SAID = "other pairs of the batch, as the teacher says"

DISTILLATION_LOSSES: dict[str, Loss] = {
    "feature_loss": Loss(fn=feature_loss, rows=_ROWS, shared=("projection",), negatives="none", memory="B"),
    "affinity_loss": Loss(
        fn=affinity_loss, rows=_PAIRS, shared=("log_scale", "teacher_log_scale"), negatives=_SAID, memory="B²"
    ),
    "interactive_contrastive_loss": Loss(
        fn=interactive_contrastive_loss,
        rows=(*_PAIRS, "group"),
        shared=("log_scale",),
        negatives="the teacher's other pairs; the own group is left out",
    ),
    "relational_distance_loss": Loss(fn=relational_distance_loss, rows=_ROWS, negatives="none"),
    "relational_angle_loss": Loss(fn=relational_angle_loss, rows=_ROWS, negatives="none"),
    "logit_loss": Loss(
        fn=logit_loss, rows=("logits", "teacher_logits"), negatives="other columns, as the teacher says", memory="B·N"
    ),
    "listwise_distillation_loss": Loss(
        fn=listwise_distillation_loss,
        rows=("scores", "teacher_scores"),
        negatives="the list's other candidates, as the teacher says",
        memory="B·N",
    ),
    "reinforced_loss": Loss(
        fn=reinforced_loss, rows=(*_PAIRS, "group"), shared=("log_scale", "teacher_log_scales"), negatives=_SAID
    ),
}
"""Every distillation loss by name. For `reinforced_loss` the teacher's arguments are sequences, one per teacher."""
