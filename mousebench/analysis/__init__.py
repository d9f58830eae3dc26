"""The analyses of Conwell et al. (2020), as published and as we would defend them: functions over xarray Datasets.

``collect`` reads stored results; everything else takes what it returns, or RDMs.
"""

from mousebench.analysis.architectures import ARCHITECTURES, counts, metric_agreement, size_and_depth, twins
from mousebench.analysis.collect import Facts, catalogue_facts, collect, latest_version, only, site_mean, table
from mousebench.analysis.nothing import intercept_only
from mousebench.analysis.signatures import (
    by_area,
    by_cluster,
    dissociations,
    drop_one,
    image_bootstrap,
    resampled_tasks,
    split_weights,
    summary,
)
from mousebench.analysis.tasks import (
    anova,
    best,
    cells,
    hierarchy,
    label_permutation,
    mixed_model,
    posthoc,
    task_scores,
)

__all__ = [
    "ARCHITECTURES",
    "Facts",
    "anova",
    "best",
    "by_area",
    "by_cluster",
    "catalogue_facts",
    "cells",
    "collect",
    "counts",
    "dissociations",
    "drop_one",
    "hierarchy",
    "image_bootstrap",
    "intercept_only",
    "label_permutation",
    "latest_version",
    "metric_agreement",
    "mixed_model",
    "only",
    "posthoc",
    "resampled_tasks",
    "site_mean",
    "size_and_depth",
    "split_weights",
    "summary",
    "table",
    "task_scores",
    "twins",
]
