"""Which channels of a network must be removed together: `follow` finds out, and what it finds can be handed on."""

from course_lib.pruning.graph.channels import Channels
from course_lib.pruning.graph.follow import channel_groups, follow
from course_lib.pruning.graph.ties import ChannelGroup, LayerAxis

__all__ = ["ChannelGroup", "Channels", "LayerAxis", "channel_groups", "follow"]
