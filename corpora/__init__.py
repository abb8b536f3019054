"""Readers of data sets, registered by name: one module each, and those of other packages."""

from ..plugins import CORPUS_GROUP, Registry
from .clip import CLIP_COLUMNS, FILLED_COLUMNS, Clip
from .corpus import Corpus
from .cremad import CREMAD
from .emodb import EMODB
from .emodb2 import EMODB2
from .emovo import EMOVO
from .emozionalmente import EMOZIONALMENTE
from .esd import ESD, ESD_ENGLISH, ESD_MANDARIN
from .iemocap import IEMOCAP
from .jl import JL
from .meld import MELD
from .msp_improv import MSP_IMPROV
from .msp_podcast import MSP_PODCAST
from .ravdess import RAVDESS, SONG, SPEECH_AND_SONG
from .savee import SAVEE
from .scan import Scan, missing, scan
from .shemo import SHEMO
from .tess import TESS

__all__ = ["CLIP_COLUMNS", "CORPORA", "FILLED_COLUMNS", "Clip", "Corpus", "Scan", "missing", "scan"]

_BUILT_IN = (
    RAVDESS,
    SONG,
    SPEECH_AND_SONG,
    CREMAD,
    EMODB,
    SAVEE,
    SHEMO,
    TESS,
    IEMOCAP,
    MSP_PODCAST,
    MSP_IMPROV,
    MELD,
    ESD,
    ESD_ENGLISH,
    ESD_MANDARIN,
    EMOVO,
    EMODB2,
    EMOZIONALMENTE,
    JL,
)

CORPORA = Registry(
    CORPUS_GROUP,
    Corpus,
    {corpus.name: corpus for corpus in _BUILT_IN},
    reserved=frozenset({"sample"}),
)
