"""Everything that the commands do, as functions: each command calls the function of its name.

Each function takes its input from where the previous stage wrote it, below the working directory.
The options of a command are the parameters of its function and the fields of the dataclasses that
it takes: ``serpipe fit --head svm --split kfold:5`` is
``serpipe.fit(head="svm", protocol=serpipe.Protocol(split="kfold:5"))``. Heavy packages are imported
where they are used, so that an invalid path is refused at once and not after torch was imported.
"""

from ..features.options import ExtractOptions, SegmentOptions
from ..pipeline.finetune.options import TrainingOptions
from ..pipeline.options import FoldOptions, Protocol, TargetOptions
from ..serving.options import ServeOptions
from .caches import describe_cache, verify_cache
from .corpora import (
    convert,
    describe_corpora,
    download_corpus,
    list_corpora,
    write_clip_table,
    write_rater_table,
)
from .evaluation import evaluate
from .extraction import extract
from .finetuning import finetune
from .fitting import fit, fit_cross_corpus, fit_repeated
from .perturbation import robustness
from .prediction import export, predict, serve
from .publishing import push
from .reporting import report
from .shared import workers
from .studies import estimate_study, report_study, study, write_study

__all__ = [
    "ExtractOptions",
    "FoldOptions",
    "Protocol",
    "SegmentOptions",
    "ServeOptions",
    "TargetOptions",
    "TrainingOptions",
    "convert",
    "describe_cache",
    "describe_corpora",
    "download_corpus",
    "estimate_study",
    "evaluate",
    "export",
    "extract",
    "finetune",
    "fit",
    "fit_cross_corpus",
    "fit_repeated",
    "list_corpora",
    "predict",
    "push",
    "report",
    "report_study",
    "robustness",
    "serve",
    "study",
    "verify_cache",
    "workers",
    "write_clip_table",
    "write_rater_table",
    "write_study",
]
