"""Errors of the contract package, all under :class:`ApiError`."""

from __future__ import annotations


class ApiError(Exception):
    """Base of every error that finetune_api raises."""


class InvalidSource(ApiError):
    """A source or destination URI that cannot be read; the message names the remedy."""
