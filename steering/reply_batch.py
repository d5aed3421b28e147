"""Turns of several visitors in one batch: they join and leave between steps, and one that fails ends alone."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.conversation import fitted, with_system
from steering.decoder_choice import decoder_for
from steering.decoders import Decoder
from steering.errors import SteeringError
from steering.out_of_memory import is_out_of_memory
from steering.replies import Replies, ReplyRequest, out_of_memory

if TYPE_CHECKING:
    from steering.models import ChatModel

__all__ = ["Replies", "ReplyBatch", "ReplyRequest"]

logger = logging.getLogger(__name__)


class ReplyBatch:
    """Turns whose rows are decoded together. One thread at a time may use it.

    Args:
        decoder: what runs the rows, without any; by default the fastest that takes the model.
    """

    def __init__(self, model: ChatModel, decoder: Decoder | None = None) -> None:
        self.model = model
        self._shared = _Group(decoder or decoder_for(model))
        self._apart: list[_Group] = []  # turns that went on after a step of all failed, each by itself

    @property
    def n_rows(self) -> int:
        """How many rows are being decoded."""
        return sum(len(group.rows) for group in self._groups)

    def join(self, request: ReplyRequest) -> Replies:
        """Read the prompts of a turn and choose its first tokens; no other turn notices.

        Raises:
            SteeringError: if the message is empty or too long, a direction does not fit, memory runs out, or the
                model's numbers overflow.
        """
        prompts, left_out = [], []
        for variant, messages in zip(request.variants, request.conversations, strict=True):
            ids, missing = fitted(self.model, with_system(messages, variant.system), request.max_new_tokens)
            prompts.append(ids)
            left_out.append(missing)
            for direction in variant.directions:  # also what acts on the answer only
                direction.require_fit(self.model)
        if self.model.leader is not None:  # a part of each row's keys and values lies in every process
            request = replace(request, keeps=False, kept=None)
        replies = Replies(self.model, request, prompts, left_out)
        try:
            self._shared.join(replies)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory() from error
        return replies

    def step(self) -> list[Replies]:
        """Write one more token in every running turn; the turns that have a new step or have ended with an error."""
        stepped = []
        for group in self._groups:
            turns = group.turns
            if not turns:
                continue
            stepped += turns
            try:
                logits = group.read()
            except Exception as error:
                self._go_on_apart(group, error)
            else:
                group.write(logits)
        self._apart = [group for group in self._apart if group.rows]
        return stepped

    def leave(self, replies: Replies) -> None:
        """End a turn, whatever it has written; one that has ended already may leave once more."""
        replies.stop()
        for group in self._groups:
            group.settle()
        self._apart = [group for group in self._apart if group.rows]

    @property
    def _groups(self) -> list[_Group]:
        return [self._shared, *self._apart]

    def _go_on_apart(self, group: _Group, error: Exception) -> None:
        """Try a step that failed again turn by turn; those that fail alone end, the others go on by themselves."""
        turns = group.turns
        if len(turns) == 1:
            _end(turns[0], error)
        else:
            logger.warning("A step of %d turns failed (%s), so each is tried alone", len(turns), type(error).__name__)
            for replies in turns:
                try:
                    alone = group.taken(replies)
                    logits = alone.read()
                except Exception as own_error:
                    _end(replies, own_error)
                else:
                    alone.write(logits)
                    self._apart.append(alone)
        group.clear()


class _Group:
    """Turns on one decoder; ``rows`` says of which turn and variant each of its rows is."""

    def __init__(self, decoder: Decoder, rows: Sequence[tuple[Replies, int]] = ()) -> None:
        self.decoder = decoder
        self.rows = list(rows)

    @property
    def turns(self) -> list[Replies]:
        return list(dict.fromkeys(replies for replies, _ in self.rows))

    def join(self, replies: Replies) -> None:
        """Add a turn and write its first tokens. Where it raises, the turn is not there and the others are."""
        n_rows = len(self.rows)
        logits = self.decoder.join(replies.new_rows())
        try:
            self.rows += [(replies, variant) for variant in replies.running]
            self._write_turn(replies, logits, self.decoder.cosines())
        except BaseException:
            del self.rows[n_rows:]
            self.decoder.leave(range(n_rows, self.decoder.n_rows))
            raise
        self.settle()

    def read(self) -> Tensor:
        """Read the newest token of each row; logits of the next. Where it raises, nothing has been read."""
        return self.decoder.step(torch.tensor([token for replies in self.turns for token in replies.unread()]))

    def write(self, logits: Tensor) -> None:
        """Choose the next token of each row; a turn in which that fails ends."""
        try:
            cosines = self.decoder.cosines()
        except Exception as error:
            self._give_up(error)
            return
        first = 0
        for replies in self.turns:
            rows = slice(first, first + len(replies.running))
            first = rows.stop
            try:
                self._write_turn(replies, logits[rows], cosines[rows])
            except Exception as error:
                _end(replies, error)
        self.settle()

    def settle(self) -> None:
        """Let the rows go whose replies have ended."""
        going = [row for row, (replies, variant) in enumerate(self.rows) if variant not in replies.running]
        try:
            for row in going:
                replies, variant = self.rows[row]
                replies.let_go(variant, partial(self.decoder.kept, row))
            if going:
                self.decoder.leave(going)
        except Exception as error:
            self._give_up(error)
        else:
            self.rows = [at for row, at in enumerate(self.rows) if row not in going]

    def taken(self, replies: Replies) -> _Group:
        """A group of one turn only, with copies of its rows."""
        rows = [row for row, (turn, _) in enumerate(self.rows) if turn is replies]
        return _Group(self.decoder.taken(rows), [self.rows[row] for row in rows])

    def clear(self) -> None:
        """Let all rows go as they are."""
        self.rows = []
        self.decoder.leave(range(self.decoder.n_rows))

    def _give_up(self, error: Exception) -> None:
        """End every turn, because the rows no longer stand where the turns are."""
        for replies in self.turns:
            if not replies.finished:
                _end(replies, error)
        self.clear()

    def _write_turn(self, replies: Replies, logits: Tensor, cosines: Tensor) -> None:
        for variant, acting in replies.take(logits, cosines):
            self.decoder.change(self.rows.index((replies, variant)), acting)


def _end(replies: Replies, error: Exception) -> None:
    """End a turn because of an error; what is not for a visitor to read is logged."""
    if not isinstance(error, SteeringError):
        logger.error("A turn has ended because its step failed", exc_info=error)
    replies.stop(error)
    traceback.clear_frames(error.__traceback__)  # they hold the tensors of the pass
