"""Bytes and messages: the vocabulary that all processes share.  Pure: no input or output."""
