"""Bytes and messages: the vocabulary that every process speaks.  Pure."""
