"""What to do about one job: a pure function from what is seen to what is created, deleted and said."""

from finetune_operator.decide.decision import decide, refused
from finetune_operator.decide.turn import Decision

__all__ = ["Decision", "decide", "refused"]
