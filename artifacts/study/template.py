"""The commented file that ``serpipe study init`` writes."""

TEMPLATE = """\
# A study: every encoder on every corpus, with every pooling, split and head.
#
#   serpipe study run FILE --dry-run   # what it would compute, and how long that takes
#   serpipe study run FILE             # compute it; the same command resumes
#   serpipe study report FILE          # the report alone
#
# Paths are relative to the folder in which the command runs.

title = "Encoders on the built-in sample"

# Heads, as the option --head of `serpipe fit` takes them: each entry is one run. The first head
# and the first split are those of the summary and the figures: choose them before you see results.
heads = ["lda"]
splits = ["loso"]       # also kfold:5, standard, holdout:70/10/20, file:FOLDS.csv
poolings = ["mean"]     # also std, and "mean,std" for both together
# grid = ["lr.C=0.01,0.1,1"]

# A line for each corpus: a name of your choice, and its folder; "sample" ships with serpipe.
[corpora]
sample = "sample"
# ravdess = "/path/to/RAVDESS"
# emodb = "s3://bucket/emodb"

# A corpus with options of its own: a table of clips (manifest), ratings, other heads, or any option
# of [protocol].
# [corpora.podcast]
# manifest = "clips.csv"
# target = "valence"
# heads = ["ridge"]

# A line for each encoder: a name of your choice, and a hub id, a folder or a built-in encoder.
[encoders]
whisper = "whisper-tiny.en"
# wav2vec2 = "facebook/wav2vec2-base"
# egemaps = "opensmile:eGeMAPSv02"

# An encoder with options of its own: those of [extract], or a revision.
# [encoders.whisper-small]
# encoder = "openai/whisper-small"
# max_seconds = 30

# What is predicted, and how: the fields of serpipe.Protocol but split and pooling.
[protocol]
# target = "emotion"
# merge = {calm = "neutral"}
# keep = ["angry", "happy", "neutral", "sad"]
# layers = "all"
# seed = 0

# How clips are decoded and embedded: the fields of serpipe.ExtractOptions but encoder and pooling.
[extract]
# devices = "cuda"
# precision = "float32"
# trim = 30
"""
