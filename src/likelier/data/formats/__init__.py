"""Recognise what a file holds and turn its rows into records.

`layouts` holds what rows can look like, `mapping` brings other column names to these, `codings` and `meanings` say what
coded values mean, `questions` asks where they can mean several things, `words` says what a row says, `comparisons`
makes pairs of winners and rankings, `trees` makes rankings of conversations, `recognised` finds the layout of a file,
and `detect` runs all of it over its rows.
"""

from likelier.data.formats.detect import Converted, check_answers, convert
from likelier.data.formats.layouts import FORMATS, Format
from likelier.data.formats.mapping import PRESETS
from likelier.data.formats.messages import Unfit, hh_messages
from likelier.data.formats.recognised import recognise

__all__ = [
    "FORMATS",
    "PRESETS",
    "Converted",
    "Format",
    "Unfit",
    "check_answers",
    "convert",
    "hh_messages",
    "recognise",
]
