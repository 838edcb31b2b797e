"""Routstr for mitmproxy: a pay-per-request gateway for language models."""
