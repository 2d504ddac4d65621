"""The features that there are: one line each."""

from collections.abc import Mapping

from runstream.features.base import Feature
from runstream.features.chat import Chat

FEATURES: Mapping[str, Feature] = {feature.name: feature for feature in (Chat(),)}
